"""Where two held-out samples end: undistilled, distilled, and with many steps. For the pictures on the node."""

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dode.coordinate import coordinate_of
from dode.errors import DodeError
from dode.files.parameter_file import Entry
from dode.fit.equivalent_steps import REFERENCE_STEPS
from dode.recipe import start_of
from dode.report import Judged
from dode.sampling import sample
from dode.schedules import usual_schedule
from dode.tableau import Tableau
from dode.teacher import Teacher

from ..host import log
from ..host.latents import noise_and_empty, picture_in
from ..host.model_info import prediction_of, sigma_range
from .equivalent_steps import held_out_samples
from .progress import Progress
from .sampling_call import Inside, Task, run_inside, with_level

STAGE = "pictures"
_COUNT = 2
_DENSE = 60


class Ends(NamedTuple):
    """Latents (2, …) as the model has them."""

    start: Tensor
    learned: Tensor
    reference: Tensor


def planned(steps: int, judged: bool) -> dict[str, int]:
    """Roughly how many evaluations it takes, for the progress bar; ``judged``: the fit has kept where the reference ends."""
    return {STAGE: _COUNT * (2 * steps + (0 if judged else REFERENCE_STEPS))}


def held_out_ends(task: Task, entry: Entry, progress: Progress, judged: Judged | None = None) -> Ends | None:
    """Sample the first held-out samples without and with what was learned; the reference is the teacher's, run anew where the
    fit has not kept where it ended. None where the fit was stopped or this cannot be done, which the log says."""
    if progress.stop() or entry.parameters.base().sigmas[-1] != 0:
        progress.finish()
        return None
    held = torch.tensor(held_out_samples(task, judged)[:_COUNT])
    sampling = task.model.get_model_object("model_sampling")
    low, high = sigma_range(sampling)
    dense = usual_schedule(coordinate_of(prediction_of(sampling)), _DENSE, low, high).tolist()
    found: list[Ends] = []

    def body(inside: Inside) -> None:
        tableaus = [start_of(entry).tableau(), entry.parameters.tableau()]
        tableaus += [_reference(entry, low, high)] if judged is None else []
        whole, done = len(held) * sum(tableau.evaluations for tableau in tableaus), 0

        def one(index: Tensor, tableau: Tableau) -> Tensor:
            def denoiser(x: Tensor, sigma: Tensor) -> Any:
                nonlocal done
                output = inside.denoiser(x.to(inside.device), sigma.to(inside.device), index)
                done += 1
                progress(STAGE, done, whole)
                return output

            start = inside.start(inside.noise[index], tableau.sigma).to(inside.device)
            return sample(denoiser, start, tableau).to(inside.noise)

        # One at a time: what fitted into memory while fitting may not with as many as two.
        ends = [torch.cat([one(index, tableau) for index in held.split(1)]) for tableau in tableaus]
        ends += [] if judged is None else [judged.ends[: len(held)]]
        noise, _ = noise_and_empty(task.model, task.latent, 1, task.seed)
        found.append(Ends(*(picture_in(end, noise) for end in ends)))

    at = replace(task, cfg=task.cfg if entry.guidance is None else entry.guidance)
    try:
        both = entry.parameters.guidance is not None
        run_inside(at, torch.tensor(dense), both, lambda sigma: with_level(dense, sigma), progress, body)
    except DodeError as error:
        log.warning("D-ODE: there are no pictures of the held-out samples: %s", error)
    progress.finish()
    return found[0] if found else None


def _reference(entry: Entry, low: float, high: float) -> Tableau:
    """The teacher with as many steps as the comparison takes."""
    report, levels = entry.report, entry.parameters.base().sigmas
    levels = levels if levels[0] >= high * (1 - 1e-6) else (high, *levels)
    substeps = -(-REFERENCE_STEPS // (len(levels) - 1))
    teacher = Teacher(coordinate=entry.parameters.coordinate) if report is None else report.teacher
    return Teacher(teacher.method, teacher.order, substeps, teacher.coordinate).tableau(levels, low)
