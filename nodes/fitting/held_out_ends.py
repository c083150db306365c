"""Where two held-out samples end: undistilled, distilled, and with many steps. For the pictures on the node."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dode.coordinate import coordinate_of
from dode.errors import DodeError
from dode.files.parameter_file import Entry
from dode.recipe import start_of
from dode.sampling import sample
from dode.schedules import usual_schedule
from dode.tableau import Tableau

from ..host import log
from ..host.latents import noise_and_empty, picture_in
from ..host.model_info import prediction_of, sigma_range
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


def planned(steps: int) -> dict[str, int]:
    """How many evaluations it takes at least, for the progress bar."""
    return {STAGE: _COUNT * 2 * steps}


def held_out_ends(
    task: Task, entry: Entry, progress: Progress, samples: Sequence[int], reference: Tensor | None = None
) -> Ends | None:
    """Sample the first held-out samples without and with what was learned. None where the fit was stopped or this cannot be
    done, which the log says.

    Args:
        samples: the numbers of the held-out samples.
        reference: where many steps end for them, if that is known; else the fit's teacher runs anew.
    """
    report, levels = entry.report, entry.parameters.base().sigmas
    if report is None or progress.stop() or levels[-1] != 0:
        progress.finish()
        return None
    held = torch.tensor(samples[:_COUNT])
    sampling = task.model.get_model_object("model_sampling")
    low, high = sigma_range(sampling)
    dense = usual_schedule(coordinate_of(prediction_of(sampling)), _DENSE, low, high).tolist()
    found: list[Ends] = []

    def body(inside: Inside) -> None:
        tableaus = [start_of(entry).tableau(), entry.parameters.tableau()]
        # What the sampler was fitted to: the teacher on the undistilled sampler's noise levels, from the same start.
        tableaus += [report.teacher.tableau(levels, low)] if reference is None else []
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
        ends += [] if reference is None else [reference[: len(held)].to(inside.noise)]
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
