"""How many steps of KSampler's usual solver a sampler is worth, measured inside the host on samples that were not fitted."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from dode.coordinate import coordinate_of
from dode.errors import DodeError
from dode.files.parameter_file import Entry
from dode.fit.equivalent_steps import MOST, STAGE, StepsSaved, steps_saved
from dode.fit.held_out import split
from dode.fit.model_calls import Stopped
from dode.report import Judged
from dode.schedules import usual_schedule

from ..host import feature, log
from ..host.model_info import (
    FALLBACK_SCHEDULER,
    FALLBACK_SCHEDULER_FLOW,
    FALLBACK_SOLVER,
    prediction_of,
    sigma_range,
)
from .progress import Progress
from .sampling_call import Inside, Task, run_inside, with_level

_SAMPLES = 8  # enough for a number of steps, and few beside those that were fitted
_FEW = 4  # of the held-out samples, where the fit was so cheap that more would count
_DENSE = 60
_HELD_OUT = 0.25  # as the fits hold out


def planned(steps: int, samples: int, judged: bool) -> dict[str, int]:
    """Roughly how many evaluations it takes, for the progress bar; ``judged``: the fit has measured the sampler already."""
    held = max(round(_HELD_OUT * samples), 1)
    return {STAGE: min(_FEW, held) * 8 * steps if judged else min(_SAMPLES, held) * 4 * _DENSE}


def held_out_samples(task: Task, judged: Judged | None = None) -> list[int]:
    """The numbers of the samples that a fit held out."""
    if judged is not None:
        return list(judged.samples)
    return list(split(task.samples, _HELD_OUT, task.micro_batch, task.seed, task.prompts)[0])


def measure(task: Task, entry: Entry, progress: Progress, judged: Judged | None = None) -> StepsSaved | None:
    """Compare an entry that was just fitted with the host's plain solver; None where that makes no sense.

    ``judged`` is what the fit knows of its held-out samples; else they are run anew.

    It is a run of its own, after the file is written, so that nothing is lost if it is stopped. Whoever has asked the fit to
    stop gets no comparison either.
    """
    if progress.stop():
        progress.finish()
        return None
    sampling = task.model.get_model_object("model_sampling")
    coordinate = coordinate_of(prediction_of(sampling))
    low, high = sigma_range(sampling)
    sigmas, report = entry.parameters.base().sigmas, entry.report
    # A part of a trajectory; but a fit that has its judges is one of the whole, wherever its first noise level has moved.
    part = judged is None and (sigmas[-1] != 0 or sigmas[0] > high * 1.001 or sigmas[0] < high / 2)
    if report is None or part:
        progress.finish()
        return None
    scheduler = FALLBACK_SCHEDULER_FLOW if coordinate == "flow" else FALLBACK_SCHEDULER
    calculate = feature("comfy.samplers:calculate_sigmas")

    def grid(steps: int) -> list[float]:
        levels = calculate(sampling, scheduler, steps).tolist()
        return [min(levels[0], high), *levels[1:]]

    if judged is not None:
        judged = judged.first(_FEW)
        held = torch.tensor(judged.samples)
    else:
        held = torch.tensor(held_out_samples(task)[:_SAMPLES])
    dense = usual_schedule(coordinate, _DENSE, low, high).tolist()
    found: list[StepsSaved] = []

    def body(inside: Inside) -> None:
        def denoiser(*arguments: Any, **named: Any) -> Any:
            if progress.stop():
                raise Stopped
            return inside.denoiser(*arguments, **named)

        result = steps_saved(
            denoiser,
            inside.noise[held],
            entry.parameters,
            teacher=report.teacher,
            sigma_range=(low, high),
            method=FALLBACK_SOLVER,
            grid=grid,
            start=inside.start,
            micro_batch=task.at_once,
            extra_args=lambda samples: {"samples": held[samples]},
            device=inside.device,
            judged=judged,
            progress=progress,
        )
        found.append(result)

    both = judged is None and entry.parameters.guidance is not None
    at = replace(task, cfg=task.cfg if entry.guidance is None else entry.guidance)
    try:
        run_inside(at, torch.tensor(dense), both, lambda sigma: with_level(dense, sigma), progress, body)
    except Stopped:
        pass
    except DodeError as error:
        log.warning("D-ODE: the steps saved could not be measured: %s", error)
    progress.finish()
    return found[0] if found and np.isfinite(found[0].error) else None


def words(saved: StepsSaved, entry: Entry) -> str:
    """The comparison in one sentence."""
    ours = f"{entry.evaluations} evaluation{'s' * (entry.evaluations > 1)}"
    if saved.steps is None:
        return f"{ours} now come closer to the reference than {MOST} steps of {saved.method}."
    if saved.steps <= entry.evaluations:
        plain = f"{saved.method} comes as close in {saved.steps}"
        return f"No gain here: {ours} are needed, and {plain}. Try mode best, or more samples."
    return f"{ours} now come closer to the reference than {saved.steps - 1} steps of {saved.method}."
