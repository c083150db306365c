"""DPM-Solver: exponential integrators in noise prediction, single-step, in -ln σ on every model (Lu et al. 2022)."""

import math
from collections.abc import Sequence

import numpy as np

from dode.methods.assembly import singlestep
from dode.methods.registry import comfyui, k_diffusion, register
from dode.tableau import Array, Row, Tableau


def _step(levels: Sequence[float], first: int) -> list[Row]:
    """One step of DPM-Solver-1, -2 or -3: over one, two or three intervals of ``levels``, with an evaluation at the start of
    each. Algorithms 4 and 5 of Lu et al. 2022, whose r = ln(start/inner) / ln(start/end) may be any."""
    start, *inner, end = levels
    h = math.log(start / end)
    if not inner:
        return [Row(end, ((first, end - start),))]
    early = inner[0]
    r = math.log(start / early) / h
    if len(inner) == 1:
        second = (end - start) / (2 * r)
        last = Row(end, ((first, end - start - second), (first + 1, second)))
        return [Row(early, ((first, early - start),), commit=False), last]
    late = inner[1]
    s = math.log(start / late) / h
    second = -late * s / r * (math.expm1(s * h) / (s * h) - 1)
    third = -end / s * (math.expm1(h) / h - 1)
    return [
        Row(early, ((first, early - start),), commit=False),
        Row(late, ((first, late - start - second), (first + 1, second)), commit=False),
        Row(end, ((first, end - start - third), (first + 2, third))),
    ]


def _fixed(sigmas: Array, order: int) -> Tableau:
    """A step of one order in every interval of the grid, its inner levels uniform in ln σ."""

    def stages(i: int, first: int) -> list[Row]:
        return _step(_between(sigmas[i], sigmas[i + 1], order), first)

    return singlestep(sigmas, "noise", stages)


def _between(start: float, end: float, intervals: int) -> list[float]:
    levels = np.geomspace(start, end, intervals + 1)
    levels[0], levels[-1] = start, end
    return levels.tolist()


def _mixed(sigmas: Array, order: int) -> Tableau:
    """Steps over ``order`` intervals of the grid each, with lower orders at the end so that there are as many evaluations as
    intervals; DPM-Solver's ``singlestep``. The interval to σ = 0 is a step of its own, Euler's."""
    ends_at_zero = sigmas[-1] == 0
    intervals = len(sigmas) - 1 - ends_at_zero
    orders = [order] * (intervals // order)
    if order == 3 and intervals and intervals % 3 == 0:
        orders[-1:] = [2, 1]
    elif intervals % order:
        orders.append(intervals % order)
    cuts = np.cumsum([0, *orders])
    ends = np.append(sigmas[cuts], 0.0) if ends_at_zero else sigmas[cuts]
    return singlestep(ends, "noise", lambda i, first: _step(sigmas[cuts[i] : cuts[i + 1] + 1].tolist(), first))


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
    return _fixed(sigmas, 2)


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
    return _fixed(sigmas, 3)


_MIXED = (
    "DPM-Solver-{} as its own package samples by default (method 'singlestep'): a step spans {} intervals of the grid with its "
    "inner evaluations at the grid's levels, the last steps are of lower order, and a grid of n intervals costs n evaluations. "
    "On a grid uniform in time this is the paper's. The step to σ = 0 is Euler's."
)


@register(
    "dpm_2_singlestep",
    aliases=("d_dpm_solver_2",),
    convergence={2: 2},
    directions="noise",
    teacher="euler",
    source=_MIXED.format(2, "two"),
)
def dpm_2_singlestep(sigmas: Array, order: int, coordinate: str) -> Tableau:
    return _mixed(sigmas, 2)


@register(
    "dpm_3_singlestep",
    aliases=("d_dpm_solver_3",),
    convergence={3: 2},
    directions="noise",
    teacher="euler",
    source=_MIXED.format(3, "three"),
)
def dpm_3_singlestep(sigmas: Array, order: int, coordinate: str) -> Tableau:
    return _mixed(sigmas, 3)


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
    return singlestep(levels, "noise", lambda i, first: _step(_between(levels[i], levels[i + 1], orders[i]), first))
