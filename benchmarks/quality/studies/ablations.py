"""What single choices of the paper's fit are worth: the teacher's grid, the trajectory fitted on, and the guard.

Euler's method distilled in data prediction, one parameter a row. "as here" is our fit without its guard. "teacher not nested"
compares with every C-th point of the teacher's own schedule, whose noise levels are not the student's, as the official code
does for noise prediction and EDM. "off-policy" computes each step of the student from the teacher's points instead of its own;
the official code takes the student's own, as we do. A linear schedule, which the flow model has, contains the coarser one, so
that there "not nested" changes only how an interval is subdivided.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.models.bench_models import BenchModel
from benchmarks.quality.cells import Plan, Trial, score, trial
from benchmarks.quality.stock_search import run_table
from dode.correction import Parameters
from dode.fit.distill import distill
from dode.fit.least_squares import solve_normal_equations
from dode.methods import build_tableau
from dode.sampling import Walk
from dode.schedules import usual_schedule
from dode.tableau import Array, Row, increment
from dode.teacher import Teacher, trajectory

SUBSTEPS = 10
FEW = 4  # samples of the fits with and without guard, where a guard has something to do


def _grid(model: BenchModel, steps: int) -> Array:
    return usual_schedule(model.coordinate, steps, *model.sigma_range)


def fit_euler(
    model: BenchModel, guidance: float, noise: Tensor, grid: Array, nested: bool = True, on_policy: bool = True
) -> Parameters:
    """The paper's fit of Euler's method, on a nested teacher or not, on the student's points or not. noise: unit, (N, …)."""
    steps, denoiser = len(grid) - 1, model.denoiser(guidance)
    arguments = model.extra_args(model.fit_prompts)(torch.arange(len(noise)))
    fine = Teacher("euler", substeps=SUBSTEPS).tableau(grid, model.sigma_min)
    if not nested:
        fine = build_tableau("euler", _grid(model, steps * SUBSTEPS))

    def denoise(x: Tensor, sigma: Tensor | float) -> Tensor:
        return denoiser(x, torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(len(x)), **arguments)

    with torch.no_grad():
        start = noise * float(grid[0])
        targets = trajectory(denoise, start, fine, SUBSTEPS)
        walk = Walk(start, float(grid[0]), "data")
        walk.record(start, float(grid[0]), denoise(start, float(grid[0])))
        values = np.zeros((steps, 1))
        for i in range(steps):
            row = _euler_row(grid, i, 0.0)
            if i:
                direction = increment("data", grid[i], grid[i + 1]) * (walk.outputs[i] - walk.outputs[i - 1]).double()
                residual = targets[i].double() - walk.combine(row).double()
                gram = np.array([[float(direction.square().sum())]])
                values[i] = solve_normal_equations(gram, np.array([float((direction * residual).sum())]))
                row = _euler_row(grid, i, float(values[i, 0]))
            walk.advance(row)
            if not on_policy:
                walk.base = targets[i]
            if i + 1 < steps:
                walk.record(walk.base, walk.sigma, denoise(walk.base, walk.sigma))
    return Parameters("euler", 1, "data", tuple(grid.tolist()), values, model.coordinate)


def _euler_row(grid: Array, i: int, value: float) -> Row:
    h = increment("data", float(grid[i]), float(grid[i + 1]))
    weights = ((i, h),) if not i else ((i - 1, -value * h), (i, h + value * h))
    return Row(float(grid[i + 1]), weights)


def _variants(on: Trial, noise: Tensor, grid: Array) -> Iterator[tuple[str, int, Parameters]]:
    model, guidance = on.model, on.guidance
    choices: Sequence[tuple[str, dict[str, bool]]] = (
        ("as here", {}),
        ("teacher not nested", {"nested": False}),
        ("off-policy", {"on_policy": False}),
        ("both", {"nested": False, "on_policy": False}),
    )
    for name, changes in choices:
        yield name, len(noise), fit_euler(model, guidance, noise, grid, **changes)
    for guard in (True, False):
        few = distill(
            model.denoiser(guidance),
            noise[:FEW] * float(grid[0]),
            grid,
            coordinate=model.coordinate,
            teacher=Teacher("euler", substeps=SUBSTEPS),
            guard=guard,
            sigma_min=model.sigma_min,
            extra_args=model.extra_args(model.fit_prompts),
        )
        yield f"{FEW} samples, {'with' if guard else 'without'} guard", FEW, few.parameters


def ablations(model: BenchModel, guidance: float, plan: Plan, mode: str) -> Iterator[dict[str, Any]]:
    """Euler's method distilled as in the paper, with single choices changed; errors are those to the converged solution."""
    on, noise = trial(model, guidance, plan), model.noise(plan.fit_samples, plan.fit_seed)
    for evaluations in plan.evaluations:
        grid = _grid(model, evaluations)
        plain = score(run_table(model, guidance, build_tableau("euler", grid), on.noise, on.extra_args), on.reference)["error"]
        for name, count, parameters in _variants(on, noise, grid):
            samples = run_table(model, guidance, parameters.tableau(), on.noise, on.extra_args)
            error = score(samples, on.reference)["error"]
            row = {"model": model.name, "guidance": guidance, "NFE": evaluations, "variant": name, "samples": count}
            yield {**row, "error": error, "ratio to plain Euler": error / plain}
