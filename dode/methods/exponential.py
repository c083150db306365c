"""Exponential integrators that use the current step alone, in data prediction: DPM-Solver++(2S), SEEDS and exponential Heun."""

from collections.abc import Callable

import numpy as np

from dode.coordinate import coordinate as to_coordinate
from dode.methods.assembly import FLOW_START, sigma_at, singlestep, snr_grid
from dode.methods.registry import comfyui, k_diffusion, register
from dode.tableau import Array, Row, Tableau


@register(
    "dpmpp_2s",
    convergence={2: 2},
    source="DPM-Solver++(2S) (Lu et al. 2022); sample_dpmpp_2s_ancestral at η = 0, with the midpoint in the model's half "
    "log-SNR, as ComfyUI has it. From σ = 1 of a flow schedule the midpoint lies at σ = 0.9999. The step to σ = 0 is Euler's.",
    stock=(
        comfyui("sample_dpmpp_2s_ancestral", options=lambda order: {"eta": 0.0}),
        k_diffusion("sample_dpmpp_2s_ancestral", options=lambda order: {"eta": 0.0}, coordinates=("log_sigma",)),
        k_diffusion("sample_dpmpp_sde", options=lambda order: {"eta": 0.0}, coordinates=("log_sigma",)),
    ),
)
def dpmpp_2s(sigmas: Array, order: int, coordinate: str) -> Tableau:
    snr = to_coordinate(coordinate, sigmas)
    with np.errstate(invalid="ignore"):  # -inf + inf in the step from 1 to 0, which has no midpoint
        middle = sigma_at((snr[:-1] + snr[1:]) / 2, coordinate)
    if coordinate == "flow" and sigmas[0] == 1:
        middle[0] = FLOW_START

    def stages(i: int, first: int) -> list[Row]:
        sigma, base, mid = float(sigmas[i + 1]), float(sigmas[i]), float(middle[i])
        return [Row(mid, ((first, 1 - mid / base),), commit=False), Row(sigma, ((first + 1, 1 - sigma / base),))]

    return singlestep(sigmas, "data", stages)


def _second_order(sigmas: Array, coordinate: str, r: float, weigh: Callable[[float], float]) -> Tableau:
    """Two stages in the half log-SNR, the second at the part ``r`` of the step.

    ``weigh(h)`` gives the weight of its output, in a step of h, in units of α.
    """
    sigmas, snr, alpha = snr_grid(sigmas, coordinate)
    inner = sigma_at(snr[:-1] + r * np.diff(snr), coordinate) if r < 1 else sigmas[1:]

    def stages(i: int, first: int) -> list[Row]:
        sigma, base, mid = float(sigmas[i + 1]), float(sigmas[i]), float(inner[i])
        second = float(alpha[i + 1]) * weigh(float(snr[i + 1] - snr[i]))
        total = 1 - sigma / base
        weights = ((first, total - second), (first + 1, second))
        return [Row(mid, ((first, 1 - mid / base),), commit=False), Row(sigma, weights)]

    return singlestep(sigmas, "data", stages)


def _phi_1(h: float) -> float:
    """∫_0^h e^(u-h) du."""
    return -float(np.expm1(-h))


def _phi_2(h: float) -> float:
    """∫_0^h e^(u-h) u/h du."""
    return 1 - _phi_1(h) / h


@register(
    "seeds_2",
    convergence={2: 2},
    source="SEEDS-2 (Gonzalez et al. 2023) at η = 0: DPM-Solver++(2S) in half log-SNR; ComfyUI's sample_seeds_2. "
    "A flow schedule starts at σ = 0.9999 instead of 1. The step to σ = 0 is Euler's.",
    stock=(
        comfyui("sample_seeds_2", options=lambda order: {"eta": 0.0}),
        comfyui("sample_dpmpp_sde", options=lambda order: {"eta": 0.0}),
        k_diffusion("sample_dpmpp_sde", options=lambda order: {"eta": 0.0}, coordinates=("log_sigma",)),
    ),
)
def seeds_2(sigmas: Array, order: int, coordinate: str) -> Tableau:
    return _second_order(sigmas, coordinate, 0.5, _phi_1)


@register(
    "exp_heun_2_x0",
    convergence={2: 2},
    source="The exponential Heun method in data prediction; ComfyUI's sample_exp_heun_2_x0. "
    "A flow schedule starts at σ = 0.9999 instead of 1. The step to σ = 0 is Euler's.",
    stock=(comfyui("sample_exp_heun_2_x0"),),
)
def exp_heun_2_x0(sigmas: Array, order: int, coordinate: str) -> Tableau:
    return _second_order(sigmas, coordinate, 1.0, _phi_2)


@register(
    "seeds_3",
    convergence={3: 3},
    source="SEEDS-3 (Gonzalez et al. 2023) at η = 0; ComfyUI's sample_seeds_3. "
    "A flow schedule starts at σ = 0.9999 instead of 1. The step to σ = 0 is Euler's.",
    stock=(comfyui("sample_seeds_3", options=lambda order: {"eta": 0.0}),),
)
def seeds_3(sigmas: Array, order: int, coordinate: str) -> Tableau:
    sigmas, snr, alpha = snr_grid(sigmas, coordinate)
    inner = [sigma_at(snr[:-1] + r * np.diff(snr), coordinate) for r in (1 / 3, 2 / 3)]

    def stages(i: int, first: int) -> list[Row]:
        sigma, base, h = float(sigmas[i + 1]), float(sigmas[i]), float(snr[i + 1] - snr[i])
        early, late = float(inner[0][i]), float(inner[1][i])
        second = 2 * _phi_2(2 * h / 3) * late * float(np.exp(snr[i] + 2 * h / 3))
        third = 1.5 * _phi_2(h) * float(alpha[i + 1])
        return [
            Row(early, ((first, 1 - early / base),), commit=False),
            Row(late, ((first, 1 - late / base - second), (first + 1, second)), commit=False),
            Row(sigma, ((first, 1 - sigma / base - third), (first + 2, third))),
        ]

    return singlestep(sigmas, "data", stages)
