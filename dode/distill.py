"""The fit: find the parameters with which few student steps land where many teacher steps land.

The paper's closed form (Kim, Tang and Yu 2024, section 4), in lock-step: all samples advance row by row on the student's own
trajectory; at each row the residual to the teacher is regressed on the row's directions, the solution is applied, and only then
does the next row start. Sums are kept per sample in float64, so the result does not depend on the micro-batch size.

Differences from the official code: the teacher's grid contains the student's, λ is dimensionless, samples that judge the
result are not fitted, and a correction that does not help them is shrunk or dropped. Which settings are otherwise the
published ones, for each of the paper's solvers, says ``dode.paper``.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dode.coordinate import scale_to_unit
from dode.correction import MAX_TAPS, Parameters, RowEditor, correct
from dode.errors import FitError, NotFiniteError
from dode.fit.held_out import check_split, split, squares
from dode.least_squares import solve_normal_equations
from dode.metered import ExtraArgs, Metered, Progress
from dode.methods import build_tableau, get_method
from dode.sampling import Denoiser, Walk
from dode.tableau import DIRECTIONS, Array, Directions, Row, Tableau, Weights, check_sigmas
from dode.teacher import Teacher, trajectory

STAGES = ("teacher", "student", "fit", "check")
_STRENGTHS = (1.0, 0.5, 0.25)


@dataclass(frozen=True)
class Report:
    """What was measured while fitting. Errors are RMS distances to the teacher over all elements of the held-out samples.

    Attributes:
        teacher: the teacher that gave the targets.
        teacher_error: RMS distance, at the end, between the teacher and the same teacher with half the substeps.
        samples, held_out, seed: how many samples there were, how many of them judged, and the seed of the split.
        error_base, error_distilled: at the end of the trajectory, for the base solver and for the distilled one.
        step_errors_base, step_errors_distilled: the same after each step, (steps,).
        kept: how much of each row's correction the guard kept, (rows,): 1 all, 0 none.
        strength: how much of the whole the last check kept: 1 unless the end got worse although single rows got better.
        model_evaluations: evaluations of the model by stage, each counted once per sample.
    """

    teacher: Teacher
    teacher_error: float
    samples: int
    held_out: int
    seed: int
    error_base: float
    error_distilled: float
    step_errors_base: tuple[float, ...]
    step_errors_distilled: tuple[float, ...]
    kept: tuple[float, ...]
    strength: float
    model_evaluations: dict[str, int]

    @property
    def ratio(self) -> float:
        """Error of the distilled solver divided by that of its base; below 1 is better."""
        return self.error_distilled / self.error_base if self.error_base else 1.0


@dataclass(frozen=True, eq=False)
class Judged:
    """The held-out samples of a fit, for comparisons that go on from it.

    Attributes:
        samples: their indices, (H,).
        ends: where the teacher ends for them, (H, …).
        errors: mean squared distance to that of the distilled sampler, (H,).
    """

    samples: tuple[int, ...]
    ends: Tensor
    errors: Array

    def first(self, count: int) -> "Judged":
        """The same for a few of them."""
        return Judged(self.samples[:count], self.ends[:count], self.errors[:count])


@dataclass(frozen=True, eq=False)
class Distillation:
    """The result of a fit: parameters, the report on them, and the samples that judged (of a fit of all numbers at once)."""

    parameters: Parameters
    report: Report
    judged: Judged | None = None


@dataclass(frozen=True)
class _Check:
    """The last stage's findings: errors after each step, and how much of the correction was kept."""

    teacher_error: float
    base: tuple[float, ...]
    distilled: tuple[float, ...]
    strength: float


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
    """
    entry = get_method(method)
    kind: Directions = directions or entry.directions
    base = build_tableau(method, sigmas, order, coordinate)
    teacher = teacher or _default_teacher(method, order, coordinate)
    _check_settings(x, kind, taps, ridge, held_out, micro_batch)
    if first_step and kind == "data":
        raise FitError("first_step corrects by ε - x, which is for differences of noise outputs: 'noise' or 'slopes'.")
    if half_way and (teacher.substeps % 2 or len(base.levels) > len(base.sigmas)):
        raise FitError(
            f"half_way is for a solver that predicts where its step ends, such as heun, and an even number of substeps; got "
            f"{method!r} and {teacher.substeps}."
        )
    start = scale_to_unit(coordinate, base.sigma) if first_step else None
    model = Metered(denoiser, extra_args, torch.device(device) if device is not None else x.device, progress)
    held, batches = split(len(x), held_out, micro_batch, seed, groups)

    with torch.no_grad():
        levels = base.levels
        targets = _teach(model, x, teacher, levels, sigma_min, half_way, batches)
        target_at = {level: targets.after[level] for level in levels[1:]}

        model.enter("student", base.evaluations * len(x))
        try:
            values, kept = _fit_rows(model, x, RowEditor(base, kind, start), taps, ridge, targets, batches, held, guard)
        except NotFiniteError:  # if the base solver leads there too, its check says so
            values, kept = np.zeros((len(base.rows), taps)), [0.0] * len(base.rows)
        chosen = order if order is not None else entry.default_order
        parameters = Parameters(method, chosen, kind, tuple(check_sigmas(sigmas).tolist()), values, coordinate)
        check = _check(model, x, parameters, teacher, levels, target_at, held, micro_batch, guard, sigma_min)

    report = Report(
        teacher=teacher,
        teacher_error=check.teacher_error,
        samples=len(x),
        held_out=len(held),
        seed=seed,
        error_base=check.base[-1],
        error_distilled=check.distilled[-1],
        step_errors_base=check.base,
        step_errors_distilled=check.distilled,
        kept=tuple(kept),
        strength=check.strength,
        model_evaluations=dict(model.counts),
    )
    return Distillation(replace(parameters, values=parameters.values * check.strength), report)


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
    levels, teacher = base.levels, teacher or _default_teacher(method, order, coordinate)
    held = len(split(samples, held_out, samples, seed, groups)[0])
    check = 2 * base.evaluations + teacher.halved().tableau(levels, sigma_min).evaluations
    fine = teacher.tableau(levels, sigma_min)
    return {"teacher": fine.evaluations * samples, "student": base.evaluations * samples, "check": check * held}


def _default_teacher(method: str, order: int | None, coordinate: str) -> Teacher:
    entry = get_method(method)
    return Teacher(entry.teacher, order if entry.teacher == entry.name else None, coordinate=coordinate)


def _check_settings(x: Tensor, directions: str, taps: int, ridge: float, held_out: float, micro_batch: int) -> None:
    if not isinstance(x, Tensor) or x.ndim < 2 or len(x) < 2 or not x.is_floating_point():
        raise FitError("x must be a floating-point batch of at least two samples, (N, …): one is fitted and one judges.")
    if directions not in DIRECTIONS:
        raise FitError(f"directions must be one of {', '.join(DIRECTIONS)}, got {directions!r}.")
    if not 1 <= taps <= MAX_TAPS:
        raise FitError(f"taps must be 1 to {MAX_TAPS}, got {taps}.")
    if not (np.isfinite(ridge) and ridge >= 0):
        raise FitError(f"ridge must be 0 or more, got {ridge}.")
    check_split(held_out, micro_batch)


@dataclass(frozen=True)
class _Targets:
    """Where the teacher stands, (N, …), by noise level: after the whole interval that ends there, and after half of it."""

    after: dict[float, Tensor]
    half: dict[float, Tensor]

    def of(self, row: Row) -> Tensor:
        """What a row is fitted to."""
        return self.half.get(row.sigma, self.after[row.sigma]) if not row.commit else self.after[row.sigma]


def _teach(
    model: Metered,
    x: Tensor,
    teacher: Teacher,
    levels: tuple[float, ...],
    sigma_min: float,
    half_way: bool,
    batches: list[Tensor],
) -> _Targets:
    """Run the teacher on all samples."""
    fine, parts = teacher.tableau(levels, sigma_min), 2 if half_way else 1
    model.enter("teacher", fine.evaluations * len(x))
    every = teacher.substeps // parts
    found = torch.empty(-(-(len(fine.sigmas) - 1) // every), *x.shape, dtype=x.dtype, device=x.device)
    for batch in batches:
        found[:, batch] = trajectory(model.on(batch), x[batch], fine, every)
    # The last interval may be left whole, so that it has no half.
    ends = [min((i + 1) * parts, len(found)) - 1 for i in range(len(levels) - 1)]
    after = {level: found[end] for level, end in zip(levels[1:], ends, strict=True)}
    half = {level: found[i * parts] for i, level in enumerate(levels[1:])} if half_way else {}
    return _Targets(after, half)


def _rms(squares: Array, elements: int) -> float:
    """Root of the mean over samples (B,) of summed squares, and over the elements of a sample."""
    return float(np.sqrt(max(squares.mean(), 0.0) / elements))


def _fit_rows(
    model: Metered,
    x: Tensor,
    editor: RowEditor,
    taps: int,
    ridge: float,
    targets: _Targets,
    batches: list[Tensor],
    held: list[int],
    guard: bool,
) -> tuple[Array, list[float]]:
    """The lock-step pass: parameters (rows, taps), and the part of each row's correction that the guard kept."""
    base = editor.base
    walks = [Walk(x[batch], base.sigma, editor.form) for batch in batches]
    _evaluate(model, walks, batches, [walk.base for walk in walks], base.sigma)
    values, kept = np.zeros((len(base.rows), taps)), []
    for number, base_row in enumerate(base.rows):
        row, h, differences = editor.begin(base_row)
        differences = differences[:taps]
        usable = len(differences)
        target = targets.of(row)
        gram = np.concatenate(
            [_gram(walk, row, target[batch], h, differences) for walk, batch in zip(walks, batches, strict=True)]
        )
        values[number, :usable], part = _solve(gram, ridge, held, guard)
        kept.append(part)
        elements = x[0].numel()
        change = np.append(-values[number, :usable], 1.0)
        after = np.einsum("i,bij,j->b", change, gram[held], change)
        model.measured("student", number + 1, _rms(gram[held][:, -1, -1], elements), _rms(after, elements))
        if model.progress is not None:
            model.progress("fit", number + 1, len(base.rows))
        row = editor.take(row, values[number])
        results = [walk.combine(row) for walk in walks]
        if row.evaluate:
            _evaluate(model, walks, batches, results, row.sigma)
        if row.commit:
            for walk, y in zip(walks, results, strict=True):
                walk.commit(y, row)
    return values, kept


def _evaluate(model: Metered, walks: list[Walk], batches: list[Tensor], points: list[Tensor], sigma: float) -> None:
    for walk, batch, y in zip(walks, batches, points, strict=True):
        walk.record(y, sigma, model.on(batch)(y, y.new_full((len(y),), sigma)))


def _gram(walk: Walk, row: Row, target: Tensor, h: float, differences: list[Weights]) -> Array:
    """Per sample, inner products of h times the differences and, last, the row's residual to the target: float64
    (B, k+1, k+1)."""
    vectors = [h * walk.weigh(each) for each in differences]
    vectors.append(target.double() - walk.combine(row).double())
    stacked = torch.stack([vector.flatten(1) for vector in vectors], dim=1)
    return (stacked @ stacked.mT).cpu().numpy()


def _solve(gram: Array, ridge: float, held: list[int], guard: bool) -> tuple[Array, float]:
    """Fit on all samples but the held-out ones; keep what lowers the squared error on those."""
    usable = gram.shape[1] - 1
    if usable == 0:
        return np.zeros(0), 1.0
    fitted = np.delete(gram, held, axis=0).sum(axis=0)
    values = solve_normal_equations(fitted[:usable, :usable], fitted[:usable, usable], ridge)
    judge = gram[held].sum(axis=0)
    for part in _STRENGTHS if guard else _STRENGTHS[:1]:
        v = part * values
        change = v @ judge[:usable, :usable] @ v - 2 * v @ judge[:usable, usable]
        if change < 0 or not guard:
            return v, part
    return np.zeros(usable), 0.0


def _check(
    model: Metered,
    x: Tensor,
    parameters: Parameters,
    teacher: Teacher,
    levels: tuple[float, ...],
    target_at: dict[float, Tensor],
    held: list[int],
    micro_batch: int,
    guard: bool,
    sigma_min: float,
) -> _Check:
    """Run base and distilled solver on the held-out samples, end to end, and the teacher with half its substeps."""
    elements = x[0].numel()
    base = parameters.base()
    coarse = teacher.halved().tableau(levels, sigma_min)
    runs = 2 * base.evaluations + coarse.evaluations
    model.enter("check", runs * len(held))

    def errors(tableau: Tableau, sigmas: Sequence[float], every: int = 1) -> tuple[float, ...]:
        found: list[Array] = []
        for batch in torch.tensor(held).split(micro_batch):
            results = trajectory(model.on(batch), x[batch], tableau, every)
            found.append(np.stack([squares(r - target_at[s][batch]) for r, s in zip(results, sigmas, strict=True)]))
        return tuple(_rms(s, elements) for s in np.concatenate(found, axis=1))

    steps = base.sigmas[1:]
    before = errors(base, steps)
    after, strength = before, 0.0
    if parameters.values.any():
        for strength in _STRENGTHS if guard else _STRENGTHS[:1]:
            tableau = correct(base, parameters.directions, parameters.values, strength)
            with suppress(NotFiniteError):
                after = errors(tableau, steps)
                if after[-1] < before[-1] or not guard:
                    break
        else:
            after, strength = before, 0.0
    halved = errors(coarse, [levels[-1]], len(coarse.sigmas) - 1)
    return _Check(halved[-1], before, after, strength)
