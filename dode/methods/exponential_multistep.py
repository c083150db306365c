"""Exponential integrators that reuse the outputs of earlier steps, in data prediction: DPM-Solver++ 2M and 3M, RES, ER-SDE."""

import numpy as np

from dode.coordinate import coordinate as to_coordinate
from dode.methods.assembly import Index, counts_with_start, multistep, newest_first, snr_grid
from dode.methods.registry import comfyui, k_diffusion, register
from dode.tableau import Array, Tableau


def _steps_above_zero(snr: Array) -> tuple[Array, Array]:
    """The steps in half log-SNR, 1 standing in for the infinite one to σ = 0, and their 1 - e^-h."""
    h = np.diff(snr)
    return np.where(np.isfinite(h), h, 1.0), -np.expm1(-h)


def _midpoint_2m(sigmas: Array, snr: Array) -> Tableau:
    h, _ = _steps_above_zero(snr)
    total = 1 - sigmas[1:] / sigmas[:-1]

    def weigh(steps: Index, k: int) -> Array:
        back = total[steps] * h[steps] / (2 * h[steps - 1])
        return np.stack([total[steps] + back, -back], axis=1)

    return multistep(sigmas, counts_with_start(sigmas, 2), weigh)


@register(
    "dpmpp_2m",
    convergence={2: 2},
    source="DPM-Solver++(2M) (Lu et al. 2022); k-diffusion's sample_dpmpp_2m. The first step and the one to σ = 0 are Euler's.",
    stock=(
        comfyui("sample_dpmpp_2m"),
        k_diffusion("sample_dpmpp_2m"),
        k_diffusion("sample_dpmpp_2m_sde", fewest_steps=2, options=lambda order: {"eta": 0.0}),
    ),
)
def dpmpp_2m(sigmas: Array, order: int, coordinate: str) -> Tableau:
    return _midpoint_2m(sigmas, to_coordinate("log_sigma", sigmas))


@register(
    "dpmpp_2m_snr",
    convergence={2: 2},
    source="DPM-Solver++(2M) in the model's half log-SNR; ComfyUI's sample_dpmpp_2m_sde at η = 0. Apart from flow models it is "
    "'dpmpp_2m'. A flow schedule starts at σ = 0.9999 instead of 1.",
    stock=(comfyui("sample_dpmpp_2m_sde", options=lambda order: {"eta": 0.0}),),
)
def dpmpp_2m_snr(sigmas: Array, order: int, coordinate: str) -> Tableau:
    sigmas, snr, _ = snr_grid(sigmas, coordinate)
    return _midpoint_2m(sigmas, snr)


def _taylor(h: Array, one_minus_exp: Array) -> tuple[Array, Array]:
    """φ2 and φ3 of DPM-Solver++ in k-diffusion's notation: weights of the first and second difference of the outputs."""
    phi_2 = 1 - one_minus_exp / h
    return phi_2, 0.5 - phi_2 / h


def _taylor_multistep(sigmas: Array, order: int, coordinate: str) -> Tableau:
    sigmas, snr, alpha = snr_grid(sigmas, coordinate)
    h, one_minus_exp = _steps_above_zero(snr)
    total = 1 - sigmas[1:] / sigmas[:-1]

    def weigh(steps: Index, k: int) -> Array:
        past = newest_first(h, steps, k)
        phi_2, phi_3 = _taylor(past[:, 0], one_minus_exp[steps])
        a = alpha[steps + 1]
        r0 = past[:, 1] / past[:, 0]
        weights = np.zeros((len(steps), k))
        weights[:, 0] = total[steps]
        if k == 2:
            first = a * phi_2 / r0
            weights += np.stack([first, -first], axis=1)
            return weights
        r1 = past[:, 2] / past[:, 0]
        newer = (phi_2 * (1 + r0 / (r0 + r1)) + phi_3 / (r0 + r1)) * a / r0
        older = -(phi_2 * r0 + phi_3) / (r0 + r1) * a / r1
        return weights + np.stack([newer, older - newer, -older], axis=1)

    return multistep(sigmas, counts_with_start(sigmas, order), weigh)


@register(
    "dpmpp_2m_heun",
    convergence={2: 2},
    source="DPM-Solver++(2M) in its other form, in the model's half log-SNR; ComfyUI's sample_dpmpp_2m_sde_heun at η = 0. "
    "A flow schedule starts at σ = 0.9999 instead of 1. The first step and the one to σ = 0 are Euler's.",
    stock=(
        comfyui("sample_dpmpp_2m_sde_heun", options=lambda order: {"eta": 0.0}),
        k_diffusion(
            "sample_dpmpp_2m_sde",
            options=lambda order: {"eta": 0.0, "solver_type": "heun"},
            fewest_steps=2,
            coordinates=("log_sigma",),
        ),
    ),
)
def dpmpp_2m_heun(sigmas: Array, order: int, coordinate: str) -> Tableau:
    return _taylor_multistep(sigmas, 2, coordinate)


@register(
    "dpmpp_3m",
    convergence={3: 2},
    source="DPM-Solver++(3M) in the model's half log-SNR; ComfyUI's sample_dpmpp_3m_sde at η = 0. A flow schedule starts at "
    "σ = 0.9999 instead of 1. The first steps are of order 1 and 2, the one to σ = 0 is Euler's.",
    stock=(
        comfyui("sample_dpmpp_3m_sde", options=lambda order: {"eta": 0.0}),
        k_diffusion("sample_dpmpp_3m_sde", fewest_steps=2, options=lambda order: {"eta": 0.0}, coordinates=("log_sigma",)),
    ),
)
def dpmpp_3m(sigmas: Array, order: int, coordinate: str) -> Tableau:
    return _taylor_multistep(sigmas, 3, coordinate)


@register(
    "res_multistep",
    convergence={2: 2},
    source="Refined exponential solver, two-step (Zhang et al. 2023); ComfyUI's sample_res_multistep, in -ln σ on every model. "
    "The first step and the one to σ = 0 are Euler's.",
    stock=(comfyui("sample_res_multistep"),),
)
def res_multistep(sigmas: Array, order: int, coordinate: str) -> Tableau:
    h, one_minus_exp = _steps_above_zero(to_coordinate("log_sigma", sigmas))
    total = 1 - sigmas[1:] / sigmas[:-1]

    def weigh(steps: Index, k: int) -> Array:
        back = h[steps] / h[steps - 1] * _taylor(h[steps], one_minus_exp[steps])[0]
        return np.stack([total[steps] + back, -back], axis=1)

    return multistep(sigmas, counts_with_start(sigmas, 2), weigh)


_ER_POINTS = 200


@register(
    "er_sde",
    convergence={1: 1, 2: 1, 3: 1},
    default_order=3,
    source="ER-SDE (Cui et al. 2023) as an ODE: ComfyUI's sample_er_sde with s_noise = 0 and the noise scaler λ, as its node "
    "SamplerER_SDE sets them. Its integrals are stock's sums over 200 points; as their number is fixed, it is of first order "
    "in the limit, with a small constant. A flow schedule starts at σ = 0.9999 instead of 1. The first steps are of lower "
    "order, the one to σ = 0 is Euler's.",
    stock=(comfyui("sample_er_sde", options=lambda order: {"max_stage": order, "s_noise": 0.0, "noise_scaler": lambda x: x}),),
)
def er_sde(sigmas: Array, order: int, coordinate: str) -> Tableau:
    sigmas, snr, alpha = snr_grid(sigmas, coordinate)
    with np.errstate(over="ignore"):
        noise = np.exp(-snr)  # σ/α
    total = 1 - sigmas[1:] / sigmas[:-1]

    def weigh(steps: Index, k: int) -> Array:
        past = newest_first(noise, steps, k)
        start, end, a = noise[steps], noise[steps + 1], alpha[steps + 1]
        dt = end - start
        points = end[:, None] + np.arange(_ER_POINTS) * (-dt / _ER_POINTS)[:, None]
        s = (1 / points).sum(axis=1) * (-dt / _ER_POINTS)
        slope = np.zeros((len(steps), k))
        slope[:, 0] = 1 / (start - past[:, 1])
        slope[:, 1] = -slope[:, 0]
        weights = (a * (dt + s * end))[:, None] * slope
        weights[:, 0] += total[steps]
        if k == 3:
            s_u = ((points - start[:, None]) / points).sum(axis=1) * (-dt / _ER_POINTS)
            before = 1 / (past[:, 1] - past[:, 2])
            slope[:, 1] -= before
            slope[:, 2] += before
            weights += (a * (dt**2 / 2 + s_u * end) / ((start - past[:, 2]) / 2))[:, None] * slope
        return weights

    return multistep(sigmas, counts_with_start(sigmas, order), weigh)
