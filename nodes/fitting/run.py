"""The fits, inside the host: the paper's of one grid, and the refinement that brings its own noise levels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from dode.coordinate import coordinate_of
from dode.errors import DodeError, FitError
from dode.files.parameter_file import Entry, Recipe, check_capacity
from dode.fit.all_numbers import MODES, distill_students
from dode.fit.distill import Choice
from dode.fit.paper import SAMPLES, choices, distill_published
from dode.fit.paper import planned as planned_paper
from dode.fit.plan import planned, usual_samples
from dode.fit.problem import Problem
from dode.fit.starts import SOLVERS, usual_grids
from dode.methods import build_tableau
from dode.recipe import with_start
from dode.report import Distillation, Judged
from dode.schedules import teacher_schedule, usual_schedule
from dode.tableau import check_sigmas
from dode.teacher import Teacher

from ..host.model_info import model_info, sigma_range, stock_start
from .equivalent_steps import planned as planned_comparison
from .held_out_ends import planned as planned_pictures
from .progress import NOWHERE, Place, Progress
from .sampling_call import Inside, Task, holds, run_inside, with_level

Keep = Callable[[Sequence[Entry]], None]
_DENSE = 60  # steps of the grid in which patches find the teacher's σ


@dataclass(frozen=True)
class Made:
    """What a fit made, of the first guidance scale and number of steps first.

    Attributes:
        progress: what it took, and the bar, which goes on with what comes after the fit.
        judged: the first entry's held-out samples, where the fit leaves them.
        stopped: it was stopped early.
        missing: the number of steps and guidance scale of each entry that it has not come to.
    """

    entries: list[Entry]
    progress: Progress
    judged: Judged | None = None
    stopped: bool = False
    missing: Sequence[tuple[int, float]] = ()


@dataclass(frozen=True)
class PaperFit:
    """Settings of the paper's fit.

    Attributes:
        method: a solver's name; None is the best of several.
        options: the arguments of ``distill`` that make the fit mode.
        choices: those of ``dode.fit.paper.published`` that the user may leave open: order, directions, teacher, substeps.
    """

    method: str | None
    options: dict[str, Any]
    choices: dict[str, Any]


def run_paper(task: Task, sigmas: Tensor, settings: PaperFit, made_of: Recipe, keep: Keep, place: Place = NOWHERE) -> Made:
    """Distill one solver, or the best of several, on one grid. The entry carries the recipe ``made_of`` and is given to
    ``keep`` at once.

    Raises:
        FitError: settings that cannot work. The host's own exceptions pass through, interruption among them.
    """
    task.check()
    info = model_info(task.model)
    coordinate = coordinate_of(info.prediction)
    picked = choices(settings.method, prediction=info.prediction, coordinate=coordinate, **settings.choices)
    grid = stock_start(task.model, picked[0].method, picked[0].order, sigmas).tolist()
    lowest = float(task.model.get_model_object("model_sampling").sigma_min)
    split: dict[str, Any] = {"seed": task.seed, "groups": task.prompts}
    planned_here = planned_paper(grid, picked, samples=task.samples, coordinate=coordinate, sigma_min=lowest, **split)
    progress = Progress(task.model, place, [planned_here], _later(len(grid) - 1, task.samples, judged=False))
    visited = list(build_tableau(picked[0].method, grid, picked[0].order, coordinate).levels)
    teachers = _teacher_levels(picked, visited, lowest)
    found: list[Distillation] = []

    def sigma_list(sigma: float) -> Sequence[float] | None:
        if progress.stage != "teacher" and holds(visited, sigma):
            return None
        return next((levels for levels in teachers if holds(levels, sigma)), teachers[-1])

    def body(inside: Inside) -> None:
        inside.try_model(task, (teachers[0][0], teachers[0][len(teachers[0]) // 2]))
        problem = Problem(
            inside.denoiser,
            inside.start(inside.noise, float(sigmas[0])),
            micro_batch=task.at_once,
            extra_args=lambda samples: {"samples": samples},
            device=inside.device,
            progress=progress,
            **split,
        )
        found.append(distill_published(problem, grid, picked, coordinate=coordinate, sigma_min=lowest, **settings.options))

    run_inside(task, sigmas, False, sigma_list, progress, body)
    progress.finish()
    entry = Entry(found[0].parameters, info, float(task.cfg), found[0].report, {**made_of, "sigma_min": lowest})
    keep([entry])
    return Made([entry], progress)


def _later(steps: int, samples: int, judged: bool) -> list[dict[str, int]]:
    """What comes after the fits, each as it is planned."""
    return [planned_comparison(steps, samples, judged), planned_pictures(steps)]


def _teacher_levels(picked: Sequence[Choice], visited: Sequence[float], lowest: float) -> list[list[float]]:
    """The noise levels of each teacher that may run, and of the same with half the substeps."""
    whole = list(dict.fromkeys(choice.teacher for choice in picked if choice.teacher))
    return [list(each.tableau(visited, lowest).levels) for full in whole for each in (full, full.halved())]


@dataclass(frozen=True)
class StudentsFit:
    """Settings of the refinement.

    Attributes:
        mode: one of ``dode.fit.all_numbers.MODES``.
        steps: numbers of steps to fit for.
        scales: guidance scales to fit at.
        schedule: from a number of steps to the host's σ, one of the starts, or the only one.
        only: no other noise levels to start from.
        solver, teacher: names; None is the best of several, and the usual teacher.
        substeps: of a teacher that is named.
    """

    mode: str
    steps: Sequence[int]
    scales: Sequence[float]
    schedule: Callable[[int], Tensor]
    only: bool = False
    solver: str | None = None
    teacher: str | None = None
    substeps: int = 6


def run_students(
    task: Task,
    settings: StudentsFit,
    made_of: Recipe,
    keep: Keep,
    place: Place = NOWHERE,
    asked: Callable[[], bool] | None = None,
) -> Made:
    """Refine a sampler for each guidance scale and number of steps.

    A scale goes on from what came out at the one before, so that what lies between can be interpolated. The entries carry the
    recipe ``made_of``, and ``keep`` gets all there are whenever a scale is done. ``asked`` says whether to stop and to keep
    what there is: the best so far, without the scales and numbers of steps that were not begun.

    Raises as ``run_paper``.
    """
    task.check()
    info = model_info(task.model)
    sampling = task.model.get_model_object("model_sampling")
    coordinate = coordinate_of(info.prediction)
    flow = coordinate == "flow"
    low, high = sigma_range(sampling)
    teacher = Teacher(settings.teacher, substeps=settings.substeps, coordinate=coordinate) if settings.teacher else None

    def grids(steps: int) -> list[Any]:
        given = _usable(settings.schedule(steps), steps, high, settings.only)
        usual = [] if settings.only else usual_grids(steps, low, high, flow)
        return [*given, *(grid for grid in usual if not any(np.allclose(grid, g, rtol=1e-4) for g in given))]

    ranged = {**made_of, "sigma_min": low, "sigma_max": high, "teacher_schedule": teacher_schedule(coordinate)}
    for steps in settings.steps:
        grids(steps)  # what cannot be used says so before the teacher runs
    dense = usual_schedule(coordinate, _DENSE, low, high).tolist()
    plain = settings.schedule(settings.steps[0])
    evaluations = {steps: _evaluations(settings.solver, steps) for steps in settings.steps}
    check_capacity([2 * n if settings.solver else n for n in evaluations.values()] * len(settings.scales))
    entries: list[Entry] = []
    results: list[Distillation] = []
    judged: Judged | None = None
    stopped = False
    counts = list(evaluations.values())
    stages = [
        planned(MODES[settings.mode], task.samples, counts, guided=scale != 1, continued=number > 0)
        for number, scale in enumerate(settings.scales)
    ]
    progress = Progress(task.model, place, stages, _later(counts[0], task.samples, judged=True), asked)

    def sigma_list(sigma: float) -> Sequence[float]:
        return with_level(dense if progress.stage in ("teacher", "check") else plain.tolist(), sigma)

    for scale in settings.scales:
        continued = [result.parameters for result in results] or None
        results.clear()

        def body(inside: Inside, continued: Any = continued) -> None:
            inside.try_model(task, (dense[0], dense[_DENSE // 2]))
            results[:] = distill_students(
                inside.denoiser,
                inside.noise,
                evaluations=[evaluations[n] for n in settings.steps],
                sigma_range=(low, high),
                coordinate=coordinate,
                mode=settings.mode,
                solvers=(settings.solver,) if settings.solver else SOLVERS,
                grids=grids,
                continued=continued,
                teacher=teacher,
                start=inside.start,
                micro_batch=task.at_once,
                extra_args=lambda samples: {"samples": samples},
                device=inside.device,
                groups=task.prompts,
                seed=task.seed,
                progress=progress,
                stop=progress.stop,
            )

        try:
            run_inside(replace(task, cfg=scale), plain, True, sigma_list, progress, body)
        except FitError:
            if not (entries and progress.stop()):
                raise  # else stopped, before there was anything to keep at this scale
        stopped = progress.stop()
        if stopped:
            progress.break_off()
        progress.finish()
        recipe = {**ranged, "stopped_early": True} if stopped else ranged
        entries += [
            Entry(result.parameters, info, float(scale), result.report, with_start(recipe, result.start)) for result in results
        ]
        judged = judged or results[0].judged
        if results:
            keep(entries)
        if stopped:
            break
    scales = [entry.guidance for entry in entries]
    missing = [(n, scale) for scale in settings.scales for n in settings.steps[scales.count(scale) :]]
    return Made(entries, progress, judged, stopped, missing)


def _usable(sigmas: Tensor, steps: int, highest: float, only: bool) -> list[Any]:
    """The host's schedule if it is one for this many steps: some give fewer, or repeat a level.

    Raises:
        GridError: it is the only one to start from, and cannot be used.
    """
    levels = sigmas.tolist()
    levels[0] = min(levels[0], highest)  # σ = 1 of a flow model, or float32 rounding
    try:
        grid = check_sigmas(levels)
    except DodeError:
        if only:
            raise
        return []
    return [grid] if only or (len(grid) == steps + 1 and grid[-1] == 0) else []


def samples_for(mode: str, solver: str | None, steps: int, cfg: float) -> int:
    """How many samples a fit in this mode takes by itself, for so many steps of a solver, or of the best of several."""
    if mode not in MODES:
        return SAMPLES
    return usual_samples(MODES[mode], _evaluations(solver, steps), guided=cfg != 1)


def _evaluations(solver: str | None, steps: int) -> int:
    """What this many steps cost: the solvers to choose among take one evaluation a step."""
    if solver is None:
        return steps
    return build_tableau(solver, [float(steps - i) for i in range(steps + 1)]).evaluations
