"""Undistilled solvers to set out from: which solver on which schedule is good differs by model, guidance and number of steps.

A hundred pairs are ranked on the teacher's path, which costs nothing; the best of them run for real on a few samples.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from dode.correction import Parameters
from dode.errors import FitError
from dode.fit.end_point import Targets, sketch
from dode.fit.outliers import outlier_limit, robust_mean
from dode.fit.teacher_path import TeacherPath
from dode.metered import Metered
from dode.methods import build_tableau, get_method, steps_within
from dode.schedules import schedule
from dode.tableau import Array, Tableau

SOLVERS = ("ipndm", "lms_k_diffusion", "dpmpp_2m", "deis", "gradient_estimation")
Grids = Callable[[int], Sequence[Array]]
RUNS = ((16, 2), (4, 8))  # so many of the best left run for real, on so many samples
_EARLIER_ENDS = (0.0, 0.22, 0.4, 0.5)  # of the range, in log σ, that a schedule may leave out above 0
_JUMPS = (0.17, 0.25)  # of that range, which the first step may take at once


def usual_grids(steps: int, low: float, high: float, flow: bool) -> list[Array]:
    """Schedules to start from. With few steps most do better if they end early, and where the highest level is so high that
    the model sees nothing but noise there, if the next one is far lower."""
    if flow:
        linear = schedule("linear", steps, low, high)
        cosine = (0.5 - 0.5 * np.cos(np.pi * linear / high)) * high  # dense at both ends, like ComfyUI's "beta"
        blend = (linear + cosine) / 2
        return [shift * grid / (1 + (shift - 1) * grid) for grid in (linear, blend, cosine) for shift in (0.5, 1.0, 2.0, 4.0)]

    def level(part: float) -> float:
        return low * (high / low) ** part

    karras = [schedule("karras", steps, level(end), high) for end in _EARLIER_ENDS[:3]]
    exponential = [schedule("exponential", steps, level(end), high) for end in _EARLIER_ENDS[1:]]
    tops = [level(1 - jump) for jump in _JUMPS if steps > 1]
    after = [schedule("exponential", steps - 1, level(end), top) for top in tops for end in _EARLIER_ENDS[1:3]]
    return [*karras, *exponential, *(np.concatenate([[high], grid]) for grid in after)]


def undistilled(budget: int, solvers: Sequence[str], grids: Grids, coordinate: str) -> dict[Tableau, Parameters]:
    """All solvers on all schedules with up to this many evaluations, each table once.

    Raises:
        FitError: none makes a step with so few.
    """
    found: dict[Tableau, Parameters] = {}
    for name in solvers:
        for order in get_method(name).convergence:
            steps = steps_within(name, budget, order)
            for grid in grids(steps) if steps else ():
                base = build_tableau(name, grid, order, coordinate)
                form = "data" if base.consistent else "noise"
                values = np.zeros((len(base.rows), 1))
                found.setdefault(base, Parameters(name, order, form, tuple(grid.tolist()), values, coordinate))
    if not found:
        raise FitError(f"None of {', '.join(solvers)} makes a step within {budget} evaluations.")
    return found


def best_on_path(targets: Targets, samples: Sequence[int], path: TeacherPath, tables: Sequence[Tableau]) -> list[Tableau]:
    """Tables ranked by where they would end beside the teacher's path of these samples, the best first."""
    starts: dict[float, Tensor] = {}

    def loss(table: Tableau) -> float:
        if table.sigma not in starts:
            starts[table.sigma] = sketch(targets.start(targets.noise[list(samples)], table.sigma))
        missed = path.estimated_end(starts[table.sigma], table) - path.ends
        errors = missed.double().square().mean(1).numpy()
        return robust_mean(errors, outlier_limit(errors)) if np.isfinite(errors).all() else math.inf

    return sorted(tables, key=loss)


def best_starts(
    model: Metered, targets: Targets, samples: Sequence[int], path: TeacherPath, pool: dict[Tableau, Parameters]
) -> list[Parameters]:
    """Undistilled solvers, the best on a few fitted samples first. ``samples`` are those of the path."""
    left = best_on_path(targets, samples, path, list(pool))
    fitted = targets.fitted
    for count, size in RUNS:
        few = targets.only(fitted[:size])
        left = left[:count]
        model.expect(len(few.order) * sum(table.evaluations for table in left))
        errors = {table: few.errors(model, table) for table in left}
        left = sorted(left, key=lambda table: float(errors[table].mean()))
    return [pool[table] for table in left]


def path_samples(targets: Targets) -> list[int]:
    """The fitted samples whose path is kept."""
    return targets.fitted[: RUNS[-1][1]]


def own_error(targets: Targets, samples: Sequence[int], path: TeacherPath, halved: Tableau) -> float:
    """How far, by its path, a teacher with half the steps would end from the teacher: RMS."""
    start = sketch(targets.start(targets.noise[list(samples)], halved.sigma))
    elements = targets.noise[0].numel() / path.ends.shape[1]
    missed = (path.estimated_end(start, halved) - path.ends).double().square().mean()
    return float(torch.sqrt(missed / elements))
