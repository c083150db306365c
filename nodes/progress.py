"""Progress of a distillation on its node: bar, picture, and how long it will still take."""

import time
from typing import Any

from torch import Tensor

from .host import feature, interrupted, previewer, send_text

_WORDS = {
    "teacher": "running the teacher",
    "search": "comparing solvers and noise levels",
    "student": "fitting the student",
    "refine": "refining",
    "check": "checking on held-out noise",
}
_GROWING = ("search", "refine")  # stages that learn only on the way how much they have to do
_PICTURE_SECONDS = 0.5
_TEXT_SECONDS = 0.25


class Progress:
    """Called by the fit after every model call; raises the host's interrupt if the user has pressed cancel.

    ``planned`` is the number of model evaluations by stage, so that the bar goes once from left to right over all of them, in
    as many fits as there are.
    """

    def __init__(self, model: Any, node_id: str | None, planned: dict[str, int], fits: int = 1):
        self.node_id, self.planned, self.fits = node_id, planned, fits
        self.counts: dict[str, int] = {}
        self.before = 0  # evaluations of fits that are done
        self.bar = feature("comfy.utils:ProgressBar")(self.total, node_id=node_id)
        self.previewer = previewer(model)
        self.stage = ""
        self.start = time.monotonic()
        self.pictured = self.told = 0.0
        self.denoised: Tensor | None = None

    @property
    def total(self) -> int:
        """Evaluations in all, as far as known."""
        return self.before + self.fits * sum(self.planned.values())

    def show(self, denoised: Tensor) -> None:
        """The model's newest output, for the preview."""
        self.denoised = denoised

    def __call__(self, stage: str, done: int, total: int) -> None:
        interrupted()
        if stage not in self.planned:  # counted in rows, and done in no time
            return
        if stage != self.stage:
            self.stage, self.told = stage, 0.0
        self.planned[stage] = max(total, self.planned[stage]) if stage in _GROWING else total
        self.counts[stage] = done
        now = time.monotonic()
        self.bar.update_absolute(self.before + sum(self.counts.values()), self.total, self._picture(now))
        if now - self.told >= _TEXT_SECONDS:
            self.told = now
            send_text(self._text(now), self.node_id)

    def finish(self) -> None:
        """A fit is done, perhaps with fewer evaluations than planned; after the last the bar is at its right end."""
        self.fits -= 1
        self.before, self.counts = self.before + sum(self.counts.values()), {}
        self.bar.update_absolute(self.before, self.total)

    def _picture(self, now: float) -> Any:
        if self.previewer is None or self.denoised is None or now - self.pictured < _PICTURE_SECONDS:
            return None
        self.pictured = now
        return self.previewer.decode_latent_to_preview_image("JPEG", self.denoised[:1])

    def _text(self, now: float) -> str:
        stage, done = self.stage, self.before + sum(self.counts.values())
        text = f"D-ODE: {_WORDS.get(stage, stage)}, {self.counts[stage]} of {self.planned[stage]} model evaluations"
        if done:
            left = (now - self.start) * (self.total / done - 1)
            text += f", about {_duration(left)} left"
        return text


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 0):.0f} s"
    return f"{seconds / 60:.0f} min"
