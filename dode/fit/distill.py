"""The fit: find the parameters with which few student steps land where many teacher steps land.

The paper's closed form (Kim, Tang and Yu 2024, section 4), in lock-step (``dode.fit.closed_form``).

Differences from the official code: the teacher's grid contains the student's, λ is dimensionless, samples that judge the
result are not fitted, and a correction that does not help them is shrunk or dropped. Which settings are otherwise the
published ones, for each of the paper's solvers, says ``dode.fit.paper``.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dode.coordinate import scale_to_unit
from dode.correction import MAX_TAPS, Parameters, RowEditor
from dode.errors import FitError, NotFiniteError
from dode.fit.closed_form import ClosedForm
from dode.fit.held_out import split
from dode.fit.model_calls import ExtraArgs, Progress
from dode.fit.problem import Problem
from dode.methods import build_tableau, get_method
from dode.report import Distillation, Report
from dode.sampling import Denoiser
from dode.tableau import DIRECTIONS, Array, Directions, check_sigmas
from dode.teacher import Teacher


@dataclass(frozen=True)
class Choice:
    """A solver and what is fitted to what. The fields are arguments of ``distill``."""

    method: str
    order: int | None = None
    directions: Directions | None = None
    first_step: bool = False
    teacher: Teacher | None = None
    half_way: bool = False


def distill(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Any,
    *,
    method: str = "euler",
    order: int | None = None,
    coordinate: str = "log_sigma",
    directions: Directions | None = None,
    taps: int = 1,
    ridge: float = 0.0,
    first_step: bool = False,
    teacher: Teacher | None = None,
    half_way: bool = False,
    held_out: float = 0.25,
    guard: bool = True,
    micro_batch: int = 16,
    extra_args: ExtraArgs | None = None,
    device: torch.device | str | None = None,
    seed: int = 0,
    groups: Sequence[int] | None = None,
    sigma_min: float = 0.0,
    progress: Progress | None = None,
) -> Distillation:
    """Fit a D-ODE version of a solver on a model.

    Args:
        denoiser: ``denoiser(x, sigma, **extra_args)`` with sigma (B,) returns the denoised batch.
        x: noisy start (N, …) at sigmas[0], as for ``sample``; N from 2. Trajectories live where x lives: best in CPU memory.
        sigmas: the student's grid (n+1,), descending, last may be 0.
        method, order, coordinate: the base solver, as in ``build_tableau``.
        directions: difference denoised ("data") or noise ("noise") outputs, or the combinations that successive rows make of
            the latter ("slopes"); the paper's choice for the solver by default.
        taps: how many successive differences each row may use; 1 is the paper's.
        ridge: shrinks towards the base solver; 0 is the paper's plain least squares.
        first_step: correct the first step too, by ε - x, as the official code does in noise prediction. Not for "data".
        teacher: by default the paper's for the solver, with 10 substeps.
        half_way: fit what a step predicts before it is corrected to where the teacher stands after half of its substeps, as the
            official code does for EDM, and not to where the step ends. The number of substeps must be even.
        held_out: part of the samples that are not fitted but judge the result (at least one).
        guard: halve, quarter or drop corrections that do not lower the held-out error. Off only for comparisons.
        micro_batch: samples given to the model at once.
        extra_args: passed to the denoiser; or a function from sample indices (B,) to them, where they differ by sample.
        device: where the denoiser wants its input; x's device by default.
        seed: of the split into fitted and held-out samples.
        groups: for each sample, (N,), a number that those with the same prompt or class share. From four groups on, whole ones
            are held out, so that what judges, and what the report says, are prompts that were not fitted.
        sigma_min: the model's lowest noise level, below which the teacher makes no substeps; 0 for a model without one.
        progress: called with (stage, done, total): after every model call, counted in evaluations times samples, with the
            stage "teacher", "student" or "check"; and with "fit", counted in rows, when a row of the student is fitted.

    Returns:
        Parameters and a report. With the guard, the distilled solver's held-out error is never above the base solver's. Where
        corrections make the model return NaN or infinity, they are dropped: λ = 0, and ``report.kept`` is 0.

    Raises:
        FitError, GridError, MethodError: unusable settings. ModelError: the model returned NaN or a wrong shape.

    Example:
        >>> from dode.demo.mixture import ring
        >>> x = 10 * torch.randn(16, 4, dtype=torch.float64)
        >>> found = distill(ring(), x, [10.0, 3.0, 1.0, 0.3, 0.0], method="dpmpp_2m")
        >>> found.report.error_distilled <= found.report.error_base
        True
    """
    problem = Problem(denoiser, x, held_out, micro_batch, extra_args, device, seed, groups, progress)
    choice = Choice(method, order, directions, first_step, teacher, half_way)
    return distill_best(
        problem, sigmas, [choice], coordinate=coordinate, taps=taps, ridge=ridge, guard=guard, sigma_min=sigma_min
    )


def distill_best(
    problem: Problem,
    sigmas: Any,
    choices: Sequence[Choice],
    *,
    judge: Teacher | None = None,
    coordinate: str = "log_sigma",
    taps: int = 1,
    ridge: float = 0.0,
    guard: bool = True,
    sigma_min: float = 0.0,
) -> Distillation:
    """The best of several solvers' D-ODE versions. All are fitted to one teacher, and the one with the least error on the
    fitted samples is then fitted to its own.

    Args:
        problem: the model and the samples.
        choices: what to choose among. With one there is nothing to choose, and no stage "search".
        judge: the teacher to which all are fitted; all must visit the same noise levels.
        The others are those of ``distill``, as is what comes out and is raised.

    Example:
        >>> from dode.demo.mixture import ring
        >>> problem = Problem(ring(), 10 * torch.randn(16, 4, dtype=torch.float64))
        >>> choices = [Choice("euler"), Choice("ipndm")]
        >>> best = distill_best(problem, [10.0, 3.0, 1.0, 0.3, 0.0], choices, judge=Teacher("ipndm", None, 10))
        >>> best.report.error_distilled <= best.report.error_base
        True
    """
    if not 1 <= taps <= MAX_TAPS:
        raise FitError(f"taps must be 1 to {MAX_TAPS}, got {taps}.")
    if not (np.isfinite(ridge) and ridge >= 0):
        raise FitError(f"ridge must be 0 or more, got {ridge}.")
    prepared = [_Prepared(choice, sigmas, coordinate) for choice in choices]
    fit = ClosedForm(problem, sigma_min, taps, ridge, guard)
    with torch.no_grad():
        chosen = prepared[0] if judge is None or len(prepared) == 1 else _best(fit, prepared, judge)
        targets = fit.teach(chosen.teacher, chosen.base.levels, chosen.half_way)
        try:
            rows = fit.rows(chosen.editor(), targets)
            values, kept = rows.values, rows.kept
        except NotFiniteError:  # if the base solver leads there too, its check says so
            values, kept = np.zeros((len(chosen.base.rows), taps)), (0.0,) * len(chosen.base.rows)
        parameters = chosen.parameters(values)
        check = fit.check(parameters, chosen.teacher, targets)
    for number, error in enumerate((check.base[-1], check.distilled[-1])):
        fit.model.measured(number, check.base[-1], error)
    report = Report(
        teacher=chosen.teacher,
        teacher_error=check.teacher_error,
        samples=len(problem.x),
        held_out=len(fit.held),
        seed=problem.seed,
        error_base=check.base[-1],
        error_distilled=check.distilled[-1],
        step_errors_base=check.base,
        step_errors_distilled=check.distilled,
        kept=kept,
        strength=check.strength,
        model_evaluations=dict(fit.model.counts),
    )
    return Distillation(replace(parameters, values=parameters.values * check.strength), report)


class _Prepared:
    """A choice on a grid, with what it leaves open filled in."""

    def __init__(self, choice: Choice, sigmas: Any, coordinate: str):
        entry = get_method(choice.method)
        self.method, self.coordinate = entry.name, coordinate
        self.base = build_tableau(entry.name, sigmas, choice.order, coordinate)
        self.sigmas = tuple(check_sigmas(sigmas).tolist())
        self.order = entry.default_order if choice.order is None else choice.order
        self.directions: Directions = choice.directions or entry.directions
        self.teacher = choice.teacher or teacher_of(entry.name, choice.order, coordinate)
        self.first_step, self.half_way = choice.first_step, choice.half_way
        if self.directions not in DIRECTIONS:
            raise FitError(f"directions must be one of {', '.join(DIRECTIONS)}, got {self.directions!r}.")
        if self.first_step and self.directions == "data":
            raise FitError("first_step corrects by ε - x, which is for differences of noise outputs: 'noise' or 'slopes'.")
        if self.half_way and (self.teacher.substeps % 2 or len(self.base.levels) > len(self.base.sigmas)):
            raise FitError(
                "half_way is for a solver that predicts where its step ends, such as heun, and an even number of substeps; got "
                f"{entry.name!r} and {self.teacher.substeps}."
            )

    def editor(self) -> RowEditor:
        start = scale_to_unit(self.coordinate, self.base.sigma) if self.first_step else None
        return RowEditor(self.base, self.directions, start)

    def parameters(self, values: Array) -> Parameters:
        return Parameters(self.method, self.order, self.directions, self.sigmas, values, self.coordinate)


def _best(fit: ClosedForm, prepared: Sequence[_Prepared], judge: Teacher) -> _Prepared:
    """The one with the least error on the fitted samples, each fitted to the same teacher. Where the model breaks down with all
    of them, the first."""
    found: dict[int, float] = {}
    for number, each in enumerate(prepared):
        targets = fit.teach(judge, each.base.levels)
        with suppress(NotFiniteError):
            found[number] = float(np.delete(fit.rows(each.editor(), targets, "search").errors, fit.held).mean())
    return prepared[min(found, key=found.__getitem__, default=0)]


def planned_evaluations(
    sigmas: Any,
    *,
    samples: int,
    method: str = "euler",
    order: int | None = None,
    coordinate: str = "log_sigma",
    teacher: Teacher | None = None,
    held_out: float = 0.25,
    seed: int = 0,
    groups: Sequence[int] | None = None,
    sigma_min: float = 0.0,
) -> dict[str, int]:
    """How many evaluations of the model ``distill`` will need, by stage; the guard may add some to the last one.

    Arguments are those of ``distill``. Raises what it raises for unusable settings.
    """
    base = build_tableau(method, sigmas, order, coordinate)
    levels, teacher = base.levels, teacher or teacher_of(method, order, coordinate)
    held = len(split(samples, held_out, samples, seed, groups)[0])
    check = 2 * base.evaluations + teacher.halved().tableau(levels, sigma_min).evaluations
    fine = teacher.tableau(levels, sigma_min)
    return {"teacher": fine.evaluations * samples, "student": base.evaluations * samples, "check": check * held}


def teacher_of(method: str, order: int | None, coordinate: str, name: str | None = None, substeps: int = 10) -> Teacher:
    """The teacher of a solver: the paper's, or the one named. Where it is the solver itself, it has the student's order."""
    entry = get_method(method)
    chosen = get_method(name or entry.teacher).name
    return Teacher(chosen, order if chosen == entry.name else None, substeps, coordinate)
