"""DPM-Solver: exponential integrators in noise prediction, single-step, in -ln σ on every model (Lu et al. 2022)."""

import math

import numpy as np

from dode.methods.assembly import singlestep
from dode.methods.registry import comfyui, k_diffusion, register
from dode.tableau import Array, Row, Tableau


def _step(order: int, start: float, end: float, first: int) -> list[Row]:
    """One step of DPM-Solver-1, -2 (r = 1/2) or -3 (r = 1/3, 2/3)."""
    if order == 1:
        return [Row(end, ((first, end - start),))]
    h = math.log(start / end)
    if order == 2:
        middle = math.sqrt(start * end)
        return [Row(middle, ((first, middle - start),), commit=False), Row(end, ((first + 1, end - start),))]
    early, late = start * math.exp(-h / 3), start * math.exp(-2 * h / 3)
    z = 2 * h / 3
    second = -2 * late * (math.expm1(z) / z - 1)
    third = -1.5 * end * (math.expm1(h) / h - 1)
    return [
        Row(early, ((first, early - start),), commit=False),
        Row(late, ((first, late - start - second), (first + 1, second)), commit=False),
        Row(end, ((first, end - start - third), (first + 2, third))),
    ]


@register(
    "dpm_2",
    aliases=("dpm_solver_2",),
    convergence={2: 2},
    directions="noise",
    teacher="euler",
    source="DPM-Solver-2 with its midpoint in ln σ; k-diffusion's sample_dpm_2 without churn. The step to σ = 0 is Euler's.",
    stock=(comfyui("sample_dpm_2"), k_diffusion("sample_dpm_2"), comfyui("DPMSolver.dpm_solver_2_step")),
)
def dpm_2(sigmas: Array, order: int, coordinate: str) -> Tableau:
    return singlestep(sigmas, "noise", lambda i, first: _step(2, float(sigmas[i]), float(sigmas[i + 1]), first))


@register(
    "dpm_3",
    aliases=("dpm_solver_3",),
    convergence={3: 3},
    directions="noise",
    teacher="euler",
    source="DPM-Solver-3 in every interval of the grid; k-diffusion's DPMSolver.dpm_solver_3_step. "
    "The step to σ = 0 is Euler's.",
    stock=(comfyui("DPMSolver.dpm_solver_3_step"), k_diffusion("DPMSolver.dpm_solver_3_step")),
)
def dpm_3(sigmas: Array, order: int, coordinate: str) -> Tableau:
    return singlestep(sigmas, "noise", lambda i, first: _step(3, float(sigmas[i]), float(sigmas[i + 1]), first))


@register(
    "dpm_fast",
    convergence={3: 2},
    directions="noise",
    teacher="euler",
    source="DPM-Solver-fast; k-diffusion's sample_dpm_fast as ComfyUI calls it: the grid gives the ends and the number of "
    "evaluations, the steps between are its own, uniform in ln σ, of order 3 with one or two of lower order at the end. It "
    "ends at the last σ above 0. A grid of σ and 0 alone, on which stock returns its input, is an Euler step to 0.",
    stock=(comfyui("sample_dpm_fast", fewest_steps=2), k_diffusion("sample_dpm_fast", fewest_steps=2)),
)
def dpm_fast(sigmas: Array, order: int, coordinate: str) -> Tableau:
    evaluations = len(sigmas) - 1
    if evaluations == 1 and sigmas[1] == 0:
        return singlestep(sigmas, "noise", lambda i, first: [])
    end = float(sigmas[-1] if sigmas[-1] > 0 else sigmas[-2])
    steps = evaluations // 3 + 1
    orders = [3] * (steps - 2) + [2, 1] if evaluations % 3 == 0 else [3] * (steps - 1) + [evaluations % 3]
    levels = np.geomspace(sigmas[0], end, steps + 1)
    return singlestep(levels, "noise", lambda i, first: _step(orders[i], float(levels[i]), float(levels[i + 1]), first))
