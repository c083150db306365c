"""How many steps of a plain solver a distilled sampler is worth, and how far it is from the reference."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dode.correction import Parameters
from dode.fit.end_point import Start
from dode.fit.held_out import squares
from dode.fit.model_calls import ExtraArgs, ModelCalls, Progress
from dode.methods import build_tableau
from dode.report import Judged
from dode.sampling import Denoiser, sample
from dode.tableau import Tableau
from dode.teacher import Teacher, trajectory

STAGE = "compare"
REFERENCE_STEPS = 60  # of the reference at least
MOST = 40  # steps of the plain solver that are tried


@dataclass(frozen=True, eq=False)
class StepsSaved:
    """What was measured. Errors are RMS distances to the reference over all elements of the samples.

    Attributes:
        samples: how many there were.
        step_errors_base, step_errors_distilled: after each step, (steps,), on the distilled sampler's noise levels: of its
            solver without what was learned, and of the distilled sampler. Empty where the fit had measured the ends already.
        method: the plain solver it is compared with.
        steps: the fewest steps with which the plain solver comes as close at the end; None where ``MOST`` are too few.
        error: of the plain solver with that many steps, or with ``MOST``.
        ends: where the reference ends, (samples, …).
    """

    samples: int
    step_errors_base: tuple[float, ...]
    step_errors_distilled: tuple[float, ...]
    method: str
    steps: int | None
    error: float
    ends: Tensor


def steps_saved(
    denoiser: Denoiser,
    noise: Tensor,
    parameters: Parameters,
    *,
    teacher: Teacher,
    sigma_range: tuple[float, float],
    method: str,
    grid: Callable[[int], Sequence[float]],
    start: Start,
    micro_batch: int = 16,
    extra_args: ExtraArgs | None = None,
    device: torch.device | str | None = None,
    judged: Judged | None = None,
    progress: Progress | None = None,
) -> StepsSaved:
    """Compare a distilled sampler with a plain solver at more and more steps.

    Args:
        denoiser, start, micro_batch, extra_args, device, progress: as in ``distill_students``; the stage is "compare".
        noise: unit noise (N, …) that was not fitted.
        parameters: the distilled sampler; its last step must end at 0.
        teacher: the solver of the reference, which takes at least 60 steps.
        sigma_range: the model's lowest and highest noise level; the reference starts at the latter.
        method, grid: the plain solver, and its noise levels for a number of steps.
        judged: what the fit knows of these samples; then nothing but the plain solver runs. Without it a reference of at
            least 60 steps, the sampler and its undistilled solver run too.

    Raises:
        GridError, FitError: noise levels that cannot be used. ModelError: the model returned NaN or a wrong shape.
    """
    model = ModelCalls(denoiser, extra_args, torch.device(device) if device is not None else noise.device, progress)
    batches = list(torch.arange(len(noise)).split(micro_batch))
    elements = len(noise) * noise[0].numel()
    lowest, highest = sigma_range
    distilled, base = parameters.tableau(), parameters.base()
    taken = base.sigmas  # by its steps, which may span several intervals of the grid
    levels = taken if taken[0] >= highest * (1 - 1e-6) else (highest, *taken)
    substeps = math.ceil(REFERENCE_STEPS / (len(levels) - 1))
    fine = Teacher(teacher.method, teacher.order, substeps, teacher.coordinate).tableau(levels, lowest)

    def errors(tableau: Tableau, targets: Tensor) -> tuple[float, ...]:
        totals = torch.zeros(len(targets), dtype=torch.float64)
        for batch in batches:
            results = trajectory(model.on(batch), start(noise[batch], tableau.sigma), tableau, 1)
            for number, (result, target) in enumerate(zip(results[-len(targets) :], targets, strict=True)):
                totals[number] += squares(result - target[batch]).sum()
        return tuple((totals / elements).sqrt().tolist())

    def plain(steps: int) -> float:
        tableau = build_tableau(method, grid(steps), None, parameters.coordinate)
        return _error(model, tableau, noise, ends, start, batches)

    if judged is not None:
        ends, goal = judged.ends, math.sqrt(judged.errors.mean())
        with torch.no_grad():
            model.enter(STAGE, 0)
            steps, error = _fewest(plain, goal, len(parameters.sigmas) - 1)
        return StepsSaved(len(noise), (), (), method, steps, error, ends)
    with torch.no_grad():
        guess = fine.evaluations + 2 * base.evaluations + 6 * 2 * len(distilled.sigmas)
        model.enter(STAGE, guess * len(noise))
        parts = [trajectory(model.on(b), start(noise[b], fine.sigma), fine, substeps) for b in batches]
        targets = torch.cat(parts, dim=1)[-(len(taken) - 1) :]
        ends = targets[-1]
        before, after = errors(base, targets), errors(distilled, targets)
        steps, error = _fewest(plain, after[-1], len(parameters.sigmas) - 1)
    return StepsSaved(len(noise), before, after, method, steps, error, ends)


def _error(model: ModelCalls, tableau: Tableau, noise: Tensor, ends: Tensor, start: Start, batches: Sequence[Tensor]) -> float:
    """RMS distance between where a solver ends and these ends."""
    model.expect(tableau.evaluations * len(noise))
    total = sum(float(squares(sample(model.on(b), start(noise[b], tableau.sigma), tableau) - ends[b]).sum()) for b in batches)
    return math.sqrt(total / ends.numel())


def _fewest(plain: Callable[[int], float], goal: float, first: int) -> tuple[int | None, float]:
    """The fewest steps whose error is not above the goal, by doubling and bisection, and that error."""
    known: dict[int, float] = {}

    def close(steps: int) -> bool:
        known[steps] = plain(steps)
        return known[steps] <= goal

    high = min(first, MOST)
    low = 0
    while not close(high):
        if high >= MOST:
            return None, known[high]
        low, high = high, min(2 * high, MOST)
    while high - low > 1:
        middle = (low + high) // 2
        if middle and close(middle):
            high = middle
        else:
            low = middle
    return high, known[high]
