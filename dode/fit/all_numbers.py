"""One teacher run, many students: the fit that brings its own noise levels and needs no choice of solver or schedule.

For each number of evaluations the best of many undistilled solvers on many schedules is where the fit starts from and what it
has to beat; then all of its numbers are fitted so that it ends where the teacher ends.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from dode.correction import Parameters
from dode.errors import FitError, NotFiniteError
from dode.fit.end_point import Start, Targets, sketch
from dode.fit.free_parameters import Freedom
from dode.fit.gauss_newton import GaussNewton
from dode.fit.model_calls import ExtraArgs, ModelCalls, Progress, Stopped
from dode.fit.outliers import outlier_limit, robust_mean
from dode.fit.plan import FEWER_RUNS, FURTHER_SCALE, RUNS, TEACHER_STEPS, parts, usual_substeps, within_share
from dode.fit.problem import Problem
from dode.fit.starts import SOLVERS, Grids, OnPath, best_starts, path_samples, setting_out, undistilled, usual_grids
from dode.fit.teacher_path import Recorder
from dode.report import Distillation, Judged, Report
from dode.sampling import Denoiser
from dode.schedules import schedule, teacher_schedule
from dode.tableau import Array
from dode.teacher import Teacher

MODES: dict[str, Freedom] = {
    "balanced": Freedom(),
    "best": Freedom(taps=16, guidance_taps=16, starts=3, sparing=False, derivatives=16, steps=6, again=1),
}
_DRAFT_GAINS = 0.3  # a draft whose RMS error falls by more needs no other, where evaluations are spared
_OF_USE = 2.0  # a sampler of another guidance scale is gone on from if its error is at most so many times the best start's
_PARTS_OF_THE_WAY = (0.5, 0.25)  # from the start to the end of a fit, which are judged where the end is no better


def distill_students(
    denoiser: Denoiser,
    noise: Tensor,
    *,
    evaluations: Sequence[int],
    sigma_range: tuple[float, float],
    coordinate: str = "log_sigma",
    mode: str | Freedom = "balanced",
    solvers: Sequence[str] = SOLVERS,
    grids: Grids | None = None,
    continued: Sequence[Parameters] | None = None,
    teacher: Teacher | None = None,
    start: Start | None = None,
    held_out: float = 0.25,
    micro_batch: int = 16,
    extra_args: ExtraArgs | None = None,
    device: torch.device | str | None = None,
    seed: int = 0,
    groups: Sequence[int] | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] | None = None,
) -> list[Distillation]:
    """Fit a sampler for each number of evaluations, all to the ends of one teacher run.

    Args:
        denoiser: as in ``distill``; where it returns ``Guided`` the guidance channel is fitted too.
        noise: unit noise (N, …), N from 2. Trajectories live where it lives: best in CPU memory.
        evaluations: model evaluations per sample, each from 1.
        sigma_range: the model's lowest and highest noise level.
        coordinate: "log_sigma", or "flow" for flow matching.
        mode: "balanced", "best", or what the fit may move.
        solvers: names of the undistilled solvers to start from.
        grids: from a number of steps to the σ grids to start from, each ending at 0; a few usual ones by default.
        continued: for each number of evaluations, parameters to go on from, such as those for another guidance scale: what lies
            between the two can then be interpolated. Every second sample is enough then, and no others are run.
        teacher: its steps subdivide a grid of 10 (``teacher_schedule``). By default iPNDM of order 2 with 20 to 40 steps, more
            for more evaluations; where the model is not guided, and so costs half as much, of order 3 with twice as many.
        start: ``start(noise, sigma)`` makes the noisy start; noise · σ by default.
        held_out, micro_batch, extra_args, device, seed, groups, progress: as in ``distill``; the stages are "teacher",
            "search", "refine" and "check".
        stop: asked before every model call; once it says True the fit ends with the best it has, judged like any other, and
            without the students that were not begun.

    Returns:
        One result for each number of evaluations. With its report's ``error_base``: the best undistilled start, on the
        held-out samples; the distilled sampler's error there is never above it.

    Raises:
        FitError, GridError, MethodError: unusable settings, or stopped before there was anything to keep. ModelError: the
        model returned NaN or a wrong shape.

    Example:
        >>> from dode.demo.mixture import ring
        >>> noise = torch.randn(8, 4, dtype=torch.float64)
        >>> four, five = distill_students(ring(), noise, evaluations=(4, 5), sigma_range=(0.02, 10.0))
        >>> four.parameters.tableau().evaluations, five.report.error_distilled <= five.report.error_base
        (4, True)
    """
    freedom = _freedom(mode)
    problem = Problem(denoiser, noise, held_out, micro_batch, extra_args, device, seed, groups, progress, stop)
    _check_continued(evaluations, continued)
    low, high = sigma_range
    flow = coordinate == "flow"
    make = grids or (lambda steps: usual_grids(steps, low, high, flow))
    model, (held, batches) = problem.model(), problem.split()
    pools = {n: undistilled(n, solvers, make, coordinate) for n in dict.fromkeys(evaluations)}
    targets = Targets(noise, start or (lambda noise, sigma: noise * sigma), torch.empty_like(noise), sigma_range, batches, held)
    if continued is not None:
        targets = targets.only(_every_second(targets))
    found: list[Distillation] = []
    with torch.no_grad():
        try:
            taught = _teach(model, targets, teacher, max(evaluations), coordinate)
            for number, n in enumerate(evaluations):
                known = None if continued is None else continued[number]
                fitted = (
                    targets.fitted
                    if number == 0
                    else within_share(targets.fitted, len(targets.order), len(targets.held), freedom, n, taught.guided)
                )
                student = _Student(model, taught, n, freedom, pools[n], known, seed, fitted, first=number == 0)
                found.append(student.fit())
                if student.stopped:
                    break
        except Stopped:
            if not found:
                raise FitError("Stopped before there was anything to keep: no sampler has been judged yet.") from None
    return found


@dataclass(frozen=True)
class _Taught:
    """What the teacher left: the targets, its path for a few samples, what it is, and its own error as its path tells it; and
    whether the model gives the guidance channel."""

    targets: Targets
    path: OnPath
    teacher: Teacher
    error: float
    guided: bool


def _teach(model: ModelCalls, targets: Targets, teacher: Teacher | None, most: int, coordinate: str) -> _Taught:
    """Run the teacher on all samples, those whose path is kept first."""
    low, high = targets.sigma_range
    few = path_samples(targets)
    first = targets.only(few)
    model.enter("teacher", 0)
    guided = first.guided(model)
    if teacher is None:
        # Under strong guidance higher orders take some samples to another picture than a fine grid does.
        teacher = Teacher("ipndm", 2 if guided else 3, usual_substeps(most, guided), coordinate)
    coarse = schedule(teacher_schedule(coordinate), TEACHER_STEPS, low, high)
    tableau = teacher.tableau(coarse, low)
    model.expect(tableau.evaluations * len(targets.order))
    recorder, ends = Recorder(sketch), targets.ends.clone()
    rest = targets.only([i for i in targets.order if i not in set(few)])
    for group, seen in ((first, model.watched(recorder.watch)), (rest, model)):
        ends[group.order] = group.run(seen, tableau)
    recorder.gather()
    targets = replace(targets, ends=ends)
    path = OnPath(targets, few, recorder.path(ends[few], coordinate == "flow"))
    error = path.errors(teacher.halved().tableau(coarse, low)).mean()
    error = math.sqrt(error * path.targets.ends.shape[1] / targets.noise[0].numel())
    return _Taught(targets, path, teacher, error, guided)


class _Student:
    """The fit for one number of evaluations."""

    def __init__(
        self,
        model: ModelCalls,
        taught: _Taught,
        evaluations: int,
        freedom: Freedom,
        pool: dict,
        known: Parameters | None,
        seed: int,
        fitted: list[int],
        first: bool,
    ):
        self.model, self.taught, self.targets = model, taught, taught.targets
        self.evaluations, self.freedom, self.pool, self.known, self.seed = evaluations, freedom, pool, known, seed
        self.fitted, self.runs = fitted, RUNS if first and known is None else FEWER_RUNS
        self.before = dict(model.counts)
        self.judges = self.targets.only(self.targets.held)
        self.rounds, self.stopped = 0, False

    def fit(self) -> Distillation:
        """The best sampler found, on the held-out samples.

        Raises:
            Stopped: before anything could be judged.
        """
        self.model.enter("search", self.model.counts.get("search", 0))
        starts = best_starts(self.model, self.targets, self.taught.path, self.pool, self.runs)
        self.base = self.best = self._beaten(starts)
        with suppress(Stopped):
            self._improve(self._going_on() or setting_out(starts))
        return self._result()

    def _going_on(self) -> list[Parameters]:
        """What to go on from, if it is given and of use here: a sampler for another scale can be worse than a fresh start."""
        if self.known is None:
            return []
        errors = self._judge(self.known)
        return [self.known] if _rms(errors) <= _OF_USE * _rms(self.base[1]) else []

    def _improve(self, starts: list[Parameters]) -> None:
        """Fit from these starts: drafts on the samples of the first round, then the best of them round by round."""
        freedom, portions = self.freedom, parts(self.fitted, self.freedom.rounds)
        if not portions:
            return
        fit: GaussNewton | None = None
        try:
            first, *later = portions
            fit, drafts = self._best_draft(starts, first)
            if fit.point is None:
                return
            later = [part[(drafts - 1) * len(first) if freedom.sparing else 0 :] for part in later]  # what drafts took is gone
            for part in [*filter(None, later), *[self.fitted] * freedom.again]:
                self._round(fit, part)
                self._judge(fit.parameters)
            for part in _PARTS_OF_THE_WAY if self.best is self.base else ():
                shrunk = fit.shrunk(part)
                if shrunk is not None:
                    self._judge(shrunk)
        except Stopped:
            self.model.stop, self.stopped = None, True  # what there is gets judged, and then the fit ends
            if fit is not None:
                self._judge(fit.parameters)

    def _best_draft(self, starts: list[Parameters], samples: list[int]) -> tuple[GaussNewton, int]:
        """The best of the fits on the first round's samples from one start or more, and how many there were."""
        drafts: list[GaussNewton] = []
        try:
            for start in starts[: self.freedom.starts]:
                drafts.append(GaussNewton(self.model, self.targets, start, self.freedom, self.taught.guided))
                self._round(drafts[-1], samples)
                if self.freedom.sparing and _best(drafts).gain > _DRAFT_GAINS:
                    break
        except Stopped:
            if drafts:
                self.model.stop, self.stopped = None, True
                self._judge(_best(drafts).parameters)
            raise
        self._judge(_best(drafts).parameters)
        return _best(drafts), len(drafts)

    def _round(self, fit: GaussNewton, samples: list[int]) -> None:
        self.model.enter("refine", self.model.counts.get("refine", 0))
        with suppress(NotFiniteError):
            fit.round(samples, self.freedom.steps)

    def _errors(self, parameters: Parameters) -> Array:
        """Mean squared errors of the held-out samples, (H,)."""
        self.model.enter("check", self.model.counts.get("check", 0))
        self.model.expect(self.evaluations * len(self.judges.order))
        return self.judges.errors(self.model, parameters.tableau())

    def _judge(self, parameters: Parameters) -> Array:
        """Keep a sampler if the held-out samples find it better than the best so far, and not worse than the base; its errors
        there, (H,)."""
        errors = self._errors(parameters)
        limit = outlier_limit(self.best[1])
        if errors.mean() <= self.base[1].mean() and robust_mean(errors, limit) < robust_mean(self.best[1], limit):
            self.best = parameters, errors
        self.rounds += 1
        self.model.measured(self.rounds, _rms(self.base[1]), _rms(self.best[1]))
        return errors

    def _beaten(self, starts: list[Parameters]) -> tuple[Parameters, Array]:
        """The best start that works on the held-out samples, and its errors there: what is to be beaten."""
        for start in starts:
            errors = self._errors(start)
            if np.isfinite(errors).all():
                self.model.measured(0, _rms(errors), _rms(errors))
                return start, errors
        raise NotFiniteError(
            "With each of the solvers and schedules to start from, the model returned NaN or infinity. Nothing was fitted; "
            "check the model, its precision and the guidance scale."
        )

    def _result(self) -> Distillation:
        parameters, errors = self.best
        base, after, counts = _rms(self.base[1]), _rms(errors), self.model.counts
        report = Report(
            teacher=self.taught.teacher,
            teacher_error=self.taught.error,
            samples=len(self.targets.order),
            held_out=len(errors),
            seed=self.seed,
            error_base=base,
            error_distilled=after,
            step_errors_base=(base,),
            step_errors_distilled=(after,),
            kept=(1.0,) * len(parameters.values),
            strength=1.0,
            model_evaluations={
                stage: count if stage == "teacher" else count - self.before.get(stage, 0) for stage, count in counts.items()
            },
        )
        held = self.judges.order
        return Distillation(parameters, report, Judged(tuple(held), self.targets.ends[held], errors), self.base[0])


def _best(drafts: Sequence[GaussNewton]) -> GaussNewton:
    return min(drafts, key=lambda draft: draft.point.loss if draft.point else math.inf)


def _every_second(targets: Targets) -> list[int]:
    """Half of the fitted and half of the held-out samples, at least one of each."""
    return sorted([*targets.fitted[::FURTHER_SCALE], *targets.held[::FURTHER_SCALE]])


def _freedom(mode: str | Freedom) -> Freedom:
    if isinstance(mode, Freedom):
        return mode
    if mode not in MODES:
        raise FitError(f"Unknown mode {mode!r}. Choose one of: {', '.join(MODES)}.")
    return MODES[mode]


def _check_continued(evaluations: Sequence[int], continued: Sequence[Parameters] | None) -> None:
    if continued is not None:
        fits = [p.base().evaluations <= n for p, n in zip(continued, evaluations, strict=False)]
        if len(continued) != len(evaluations) or not all(fits):
            raise FitError("continued must hold parameters for each of the numbers of evaluations, in their order.")


def _rms(errors: Array) -> float:
    return float(np.sqrt(errors.mean()))
