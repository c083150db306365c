"""One teacher run, many students: the fit that brings its own noise levels and needs no choice of solver or schedule.

For each number of evaluations the best of a few undistilled solvers on a few schedules is where the fit starts from and what it
has to beat; then all of its numbers are fitted so that it ends where the teacher ends (``dode.refine``).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dode.correction import Parameters
from dode.distill import Distillation, Report, check_split, split
from dode.endpoint import Start, Targets
from dode.errors import FitError, NotFiniteError
from dode.metered import ExtraArgs, Metered, Progress
from dode.methods import build_tableau, get_method, steps_within
from dode.numbers import Freedom
from dode.refine import refine, robust_mean, stray_limit
from dode.sampling import Denoiser, sample
from dode.schedules import schedule, usual_schedule
from dode.tableau import Array, Tableau
from dode.teacher import Teacher

MODES: dict[str, Freedom] = {
    "balanced": Freedom(),
    "best": Freedom(taps=16, guidance=16, iterations=4, starts=12, finalists=3),
}
SOLVERS = ("ipndm", "lms_k_diffusion", "dpmpp_2m", "deis", "gradient_estimation")
TEACHER_STEPS = 10  # of the coarse grid that the teacher subdivides
_SUBSTEPS, _MOST_SUBSTEPS = 6, 48
_TEACHER_TOLERANCE = 0.005  # of the spread of the teacher's ends
_TRIED, _KEPT = (2, 8), 0.15  # samples on which all starts are compared, and then this part of them
_FIRST_LOOK, FIRST_STEPS = 16, 4  # samples and steps of the short fits, one from each schedule
_MOST_SHORT = 2  # times as many short fits, where there are many samples
_SECOND_LOOK = 32  # samples on which full fits from all starts are compared
_EARLIER_ENDS = (0.0, 0.22, 0.4, 0.5)  # of the range, in log σ, that a schedule may leave out above 0
_JUMPS = (0.17, 0.25)  # of that range, which the first step may take at once
_FEWEST = 4  # evaluations up to which all starts get that look; with more it costs more, and fewer do


def distill_students(
    denoiser: Denoiser,
    noise: Tensor,
    *,
    evaluations: Sequence[int],
    sigma_range: tuple[float, float],
    coordinate: str = "log_sigma",
    mode: str | Freedom = "balanced",
    solvers: Sequence[str] = SOLVERS,
    grids: Callable[[int], Sequence[Array]] | None = None,
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
            between the two can then be interpolated.
        teacher: its steps subdivide a grid of 10. By default iPNDM with 60 steps, or twice as many, up to 480, until halving
            them moves its ends by less than half a percent of their spread.
        start: ``start(noise, sigma)`` makes the noisy start; noise · σ by default.
        held_out, micro_batch, extra_args, device, seed, groups, progress: as in ``distill``; the stages are "teacher",
            "search", "refine" and "check".

    Returns:
        One result for each number of evaluations. With its report's ``error_base``: the best undistilled start, on the
        held-out samples; the distilled sampler's error there is never above it.

    Raises:
        FitError, GridError, MethodError: unusable settings. ModelError: the model returned NaN or a wrong shape.
    """
    freedom = _freedom(mode)
    low, high = sigma_range
    if continued is not None:
        fits = [p.base().evaluations <= n for p, n in zip(continued, evaluations, strict=False)]
        if len(continued) != len(evaluations) or not all(fits):
            raise FitError("continued must hold parameters for each of the numbers of evaluations, in their order.")
    if not isinstance(noise, Tensor) or noise.ndim < 2 or len(noise) < 2 or not noise.is_floating_point():
        raise FitError("noise must be a floating-point batch of at least two samples, (N, …): one is fitted and one judges.")
    flow = coordinate == "flow"
    start = start or (lambda noise, sigma: noise * sigma)
    make = grids or (lambda steps: usual_grids(steps, low, high, flow))
    check_split(held_out, micro_batch)
    model = Metered(denoiser, extra_args, torch.device(device) if device is not None else noise.device, progress)
    held, batches = split(len(noise), held_out, micro_batch, seed, groups)
    coarse = usual_schedule(coordinate, TEACHER_STEPS, low, high)

    def run(tableau: Tableau, over: Sequence[Tensor]) -> Tensor:
        return torch.cat([sample(model.on(b), start(noise[b], tableau.sigma), tableau) for b in over])

    found: list[Distillation] = []
    with torch.no_grad():
        judges = list(torch.tensor(held).split(micro_batch))

        def reached(candidate: Teacher) -> Tensor:
            tableau = candidate.tableau(coarse, low)
            model.enter("check", model.counts.get("check", 0) + tableau.evaluations * len(held))
            return run(tableau, judges)

        chosen = teacher or Teacher("ipndm", 4, _SUBSTEPS, coordinate)
        halved, full = reached(chosen.halved()), reached(chosen)
        while teacher is None and _rms(halved - full) > _TEACHER_TOLERANCE * float(full.std()):
            if chosen.substeps >= _MOST_SUBSTEPS:
                break
            chosen = replace(chosen, substeps=2 * chosen.substeps)
            halved, full = full, reached(chosen)
        fine = chosen.tableau(coarse, low)
        model.enter("teacher", fine.evaluations * len(noise))
        targets = Targets(noise, start, run(fine, batches), sigma_range, batches, held)
        for number, budget in enumerate(evaluations):
            before = dict(model.counts)
            candidates, base = _beaten(model, targets, _candidates(model, targets, budget, solvers, make, coordinate))
            starts = _starts(model, targets, candidates, freedom) if continued is None else [continued[number]]
            results = _fitted(model, targets, starts, freedom, base)
            kept = [result for result in results if _held_error(result[1], held) <= base]
            parameters, errors = _by_error(kept or results)[0]
            after = _held_error(errors, held)
            counts = {k: v - before.get(k, 0) if k in ("search", "refine") else v for k, v in model.counts.items()}
            report = Report(
                teacher=chosen,
                teacher_error=_rms(halved - full),
                samples=len(noise),
                held_out=len(held),
                seed=seed,
                error_base=base,
                error_distilled=min(after, base),
                step_errors_base=(base,),
                step_errors_distilled=(min(after, base),),
                kept=(1.0,) * len(parameters.values),
                strength=1.0,
                model_evaluations=counts,
            )
            found.append(Distillation(parameters if after <= base else candidates[0], report))
    return found


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


class Rounds(NamedTuple):
    """The fits for one number of evaluations, in rounds: how many, and on how many samples each.

    Attributes:
        short: fits of ``FIRST_STEPS`` steps.
        full: fits from the best of those, and from undistilled solvers.
        full_iterations: times that each of them computes all derivatives, at most.
        last: 1 if the best end is fitted once more, on all samples, since the full fits had only part of them.
    """

    short: int
    short_samples: int
    full: int
    full_samples: int
    full_iterations: int
    last: int


def rounds(freedom: Freedom, samples: int, evaluations: int) -> Rounds:
    """How the samples are shared out. With many more fits set out, and compute all derivatives as often as the last one, since
    each of them is cheap beside that; with few samples, or many evaluations, fewer do."""
    part, many = min(1.0, samples / (2 * _FIRST_LOOK)), max(1.0, samples / _SECOND_LOOK)
    fewer = _FEWEST / evaluations
    short = max(2, round(part * min(many, _MOST_SHORT) * freedom.starts * fewer))
    if freedom.iterations == 0 or freedom.finalists == 1:
        return Rounds(0, 0, 1, samples, freedom.iterations, 0)
    if samples <= _SECOND_LOOK:
        return Rounds(short, round(part * _FIRST_LOOK), freedom.finalists, samples, (freedom.iterations + 1) // 2, 0)
    full = max(freedom.finalists, round(many * freedom.finalists * fewer))
    return Rounds(short, _FIRST_LOOK, full, _SECOND_LOOK, freedom.iterations, 1)


def _freedom(mode: str | Freedom) -> Freedom:
    if isinstance(mode, Freedom):
        return mode
    if mode not in MODES:
        raise FitError(f"Unknown mode {mode!r}. Choose one of: {', '.join(MODES)}.")
    return MODES[mode]


def _candidates(
    model: Metered,
    targets: Targets,
    budget: int,
    solvers: Sequence[str],
    grids: Callable[[int], Sequence[Array]],
    coordinate: str,
) -> list[Parameters]:
    """Undistilled solvers with this many evaluations, the best on the fitted samples first."""
    tables: dict[Tableau, Parameters] = {}
    for name in solvers:
        for order in get_method(name).convergence:
            steps = steps_within(name, budget, order)
            for grid in grids(steps) if steps else ():
                base = build_tableau(name, grid, order, coordinate)
                form = "data" if base.consistent else "noise"
                values = np.zeros((len(base.rows), 1))
                tables.setdefault(base, Parameters(name, order, form, tuple(grid.tolist()), values, coordinate))
    if not tables:
        raise FitError(f"None of {', '.join(solvers)} makes a step within {budget} evaluations.")
    few = targets.fitted[: _TRIED[1]]
    model.enter("search", model.counts.get("search", 0) + _TRIED[0] * sum(table.evaluations for table in tables))
    ranked = _ranked(model, targets.only(few[: _TRIED[0]]), list(tables))
    keys = [(tables[table].sigmas, table) for table in ranked] + [(tables[table].method, table) for table in ranked]
    firsts = dict(reversed(keys)).values()  # of each schedule and of each solver
    best = list(dict.fromkeys([*ranked[: round(_KEPT * len(ranked))], *firsts]))
    model.enter("search", model.counts["search"] + len(few) * sum(table.evaluations for table in best))
    return [tables[table] for table in _ranked(model, targets.only(few), best)]


def _ranked(model: Metered, targets: Targets, tables: list[Tableau]) -> list[Tableau]:
    return sorted(tables, key=lambda table: float(targets.errors(model, table).mean()))


def _starts(model: Metered, targets: Targets, candidates: list[Parameters], freedom: Freedom) -> list[Parameters]:
    """Where full fits set out: half of them from candidates, half from the best ends of short fits on a few samples."""
    plan = rounds(freedom, len(targets.noise), candidates[0].base().evaluations)
    starts, direct = _varied(candidates), (plan.full + 1) // 2
    part, brief = _part(targets, plan.short_samples), replace(freedom, iterations=1, steps=FIRST_STEPS)
    ends = [refine(model, part, start, brief, judged=False)[0] for start in starts[: plan.short]]
    found = [(end, targets.errors(model, end.tableau())) for end in ends]
    return starts[:direct] + [parameters for parameters, _ in _by_error(found)[: plan.full - direct]]


def _varied(candidates: list[Parameters]) -> list[Parameters]:
    """One candidate for each schedule, the best first, but the solvers in turn: which start leads to the best end does not
    show in its own error, and different ones lead to different ends."""
    found: list[Parameters] = []
    grids: set[tuple[float, ...]] = set()
    left = candidates
    while left:
        methods: set[str] = set()
        for candidate in left:
            if candidate.method not in methods and candidate.sigmas not in grids:
                found.append(candidate)
                methods.add(candidate.method)
                grids.add(candidate.sigmas)
        left = [candidate for candidate in left if candidate.sigmas not in grids]
    return found


def _fitted(
    model: Metered, targets: Targets, starts: list[Parameters], freedom: Freedom, base: float
) -> list[tuple[Parameters, Array]]:
    """Ends of the fits from these starts: on part of the samples where there are many, and then the best on all of them.

    On part of them nothing judges but, at the end, all: among few samples one stray would stop a fit that is better elsewhere.
    """
    plan = rounds(freedom, len(targets.noise), starts[0].base().evaluations)
    if len(starts) == 1:
        return [refine(model, targets, starts[0], freedom, ceiling=base)]
    first = replace(freedom, iterations=plan.full_iterations)
    if not plan.last:
        return [refine(model, targets, start, first, ceiling=base) for start in starts]
    part = _part(targets, plan.full_samples)
    ends = [refine(model, part, start, first, judged=False)[0] for start in starts]
    found = _by_error([(end, targets.errors(model, end.tableau())) for end in ends])
    return [refine(model, targets, found[0][0], freedom, ceiling=base), *found]


def _part(targets: Targets, size: int) -> Targets:
    """The same for the first few samples, of which the same share judges."""
    judges = targets.held[: max(1, round(size * len(targets.held) / len(targets.noise)))]
    return targets.only(targets.fitted[: max(1, size - len(judges))] + judges)


def _by_error(found: list[tuple[Parameters, Array]]) -> list[tuple[Parameters, Array]]:
    """Samplers with the errors of samples, (N,), the best first; strays count little."""
    limit = min((stray_limit(errors) for _, errors in found), default=0.0)
    return sorted(found, key=lambda each: robust_mean(each[1], limit))


def _beaten(model: Metered, targets: Targets, candidates: list[Parameters]) -> tuple[list[Parameters], float]:
    """The candidates from the best that works on all samples on, and its error on the held-out ones, which is to be beaten."""
    for number, candidate in enumerate(candidates):
        errors = targets.errors(model, candidate.tableau())
        if np.isfinite(errors).all():
            return candidates[number:], _held_error(errors, targets.held)
    raise NotFiniteError(
        f"With each of the {len(candidates)} solvers and schedules to start from, the model returned NaN or infinity. Nothing "
        "was fitted; check the model, its precision and the guidance scale."
    )


def _rms(difference: Tensor) -> float:
    return float(difference.double().square().mean().sqrt())


def _held_error(errors: Array, held: list[int]) -> float:
    return float(np.sqrt(errors[held].mean()))
