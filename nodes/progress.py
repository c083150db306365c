"""Progress of a distillation on its node: bar, picture, and how long it will still take."""

import time
from typing import Any

from torch import Tensor

from .host import feature, interrupted, previewer, send_text

_WORDS = {"teacher": "running the teacher", "student": "fitting the student", "check": "checking on held-out noise"}
_PICTURE_SECONDS = 0.5
_TEXT_SECONDS = 0.25


class Progress:
    """Called by the fit after every model call; raises the host's interrupt if the user has pressed cancel.

    ``planned`` is the number of model evaluations by stage, so that the bar goes once from left to right over all of them.
    """

    def __init__(self, model: Any, node_id: str | None, planned: dict[str, int]):
        self.node_id, self.planned = node_id, planned
        self.bar = feature("comfy.utils:ProgressBar")(sum(planned.values()), node_id=node_id)
        self.previewer = previewer(model)
        self.stage = ""
        self.start = time.monotonic()
        self.pictured = self.told = 0.0
        self.denoised: Tensor | None = None

    def show(self, denoised: Tensor) -> None:
        """The model's newest output, for the preview."""
        self.denoised = denoised

    def __call__(self, stage: str, done: int, total: int) -> None:
        interrupted()
        if stage not in self.planned:  # counted in rows, and done in no time
            return
        if stage != self.stage:
            self.stage, self.told = stage, 0.0
        before = 0
        for name, count in self.planned.items():
            if name == stage:
                break
            before += count
        self.planned[stage] = total
        now = time.monotonic()
        self.bar.update_absolute(before + done, sum(self.planned.values()), self._picture(now))
        if now - self.told >= _TEXT_SECONDS:
            self.told = now
            send_text(self._text(before, done, total, now), self.node_id)

    def finish(self) -> None:
        """To the right end: a check that found nothing to check needs fewer evaluations than planned."""
        total = sum(self.planned.values())
        self.bar.update_absolute(total, total)

    def _picture(self, now: float) -> Any:
        if self.previewer is None or self.denoised is None or now - self.pictured < _PICTURE_SECONDS:
            return None
        self.pictured = now
        return self.previewer.decode_latent_to_preview_image("JPEG", self.denoised[:1])

    def _text(self, before: int, done: int, total: int, now: float) -> str:
        text = f"D-ODE: {_WORDS.get(self.stage, self.stage)}, {done} of {total} model evaluations"
        if before + done:
            left = (now - self.start) * (sum(self.planned.values()) / (before + done) - 1)
            text += f", about {_duration(left)} left"
        return text


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 0):.0f} s"
    return f"{seconds / 60:.0f} min"
