"""A fit in the WebUI's progress bar, and what its Interrupt means: to stop and keep what there is, and before that to stop."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from .host import feature, state

_GROWING = ("search", "refine", "check")  # stages that learn only on the way how much they have to do


class Progress:
    """Called by the fit after every model call. The host reckons its ETA from the part that is done.

    Attributes:
        spent: evaluations by stage.
        stopped: the user has asked to stop, and something was there to keep.
    """

    def __init__(self, planned: Mapping[str, int]):
        self.planned, self.spent = dict(planned), Counter[str]()
        self.judged = self.stopped = False

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.spent[stage] = done
        self.planned[stage] = max(total, self.planned.get(stage, 0)) if stage in _GROWING else total
        job = state()
        job.job_count = max(job.job_count, 1)
        job.sampling_steps, job.sampling_step = max(sum(self.planned.values()), 1), self.spent.total()
        job.textinfo = f"D-ODE {stage}"

    def measured(self, number: int, start: float, best: float) -> None:
        """There is something to keep from now on."""
        self.judged = True

    def stop(self) -> bool:
        """Asked before every model call. A press on Interrupt that is heard here is taken back, since the host's model refuses
        to run while it stands; before there is anything to keep it stays, and ends the run."""
        job = state()
        pressed = bool(job.interrupted or job.skipped or getattr(job, "stopping_generation", False))
        if pressed and not self.judged:
            raise feature("modules.sd_samplers_common:InterruptedException")
        if pressed:
            self.stopped = True
            for name in ("interrupted", "skipped", "stopping_generation"):
                _clear(job, name)
        return self.stopped


def _clear(job: Any, name: str) -> None:
    if getattr(job, name, False):
        setattr(job, name, False)
