"""Progress of a distillation on its node: bar, picture, stages, errors so far, and how long it will still take."""

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from dode.fit.cost import pictures

from ..host import feature, interrupted, previewer, send_event

_GROWING = ("search", "refine", "check", "compare")  # stages that learn only on the way how much they have to do
_SURE_SECONDS = 2.0  # of model calls, from which on they say how long all of them take
_PICTURE_SECONDS = 0.5
_EVENT_SECONDS = 0.25
EVENT = "dode.progress"


class Place(NamedTuple):
    """The node that shows it, and its workflow: node ids are the same in many."""

    node: str | None = None
    workflow: str | None = None


NOWHERE = Place()


class Progress:
    """Called by the fit after every model call; raises the host's interrupt if the user has pressed cancel.

    ``plans`` holds for each fit the number of model evaluations by stage, so that the bar goes once from left to right over all
    of them. ``later`` is what comes after the fits. ``asked`` says whether somebody has asked the fit to stop and to keep what
    it has; None where it cannot.

    Attributes:
        spent: evaluations by stage of what is done.
    """

    def __init__(
        self,
        model: Any,
        place: Place,
        plans: Sequence[dict[str, int]],
        later: dict[str, int] | None = None,
        asked: Callable[[], bool] | None = None,
    ):
        self.place, self.later, self.asked = place, dict(later or {}), asked
        self.judged = False  # a first result is there
        self.planned, *self.following = (dict(plan) for plan in plans)
        self.counts: dict[str, int] = {}
        self.spent: Counter[str] = Counter()
        self.bar = feature("comfy.utils:ProgressBar")(self.total, node_id=place.node)
        self.previewer = previewer(model)
        self.stage = ""
        self.first: tuple[float, int] | None = None  # when the first model call had ended, and evaluations until then
        self.pictured = self.told = 0.0
        self.denoised: Tensor | None = None
        self.errors: list[dict[str, Any]] = []
        self.stages = {name: [0, number] for name, number in {**self.planned, **self.later}.items()}  # done and planned

    @property
    def before(self) -> int:
        """Evaluations of what is done."""
        return self.spent.total()

    @property
    def total(self) -> int:
        """Evaluations in all, as far as known."""
        return self.before + sum(sum(plan.values()) for plan in (self.planned, *self.following, self.later))

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
        self.stages[stage] = [done, self.planned[stage]]
        now = time.monotonic()
        if self.first is None and done:  # the first call loads and warms up
            self.first = (now, done)
        self.bar.update_absolute(self.before + sum(self.counts.values()), self.total, self._picture(now))
        if now - self.told >= _EVENT_SECONDS:
            self.told = now
            send_event(EVENT, self._state(now))

    def measured(self, stage: str, number: int, before: float, after: float) -> None:
        """Errors on the held-out samples, for the curve that grows on the node."""
        if not (math.isfinite(before) and math.isfinite(after)):
            return  # what browsers read as JSON has no such numbers
        last = self.errors[-1] if self.errors else None
        if last is not None and (last["stage"] != stage or last["number"] >= number):
            self.errors = []  # another stage, or the next number of steps
        self.errors = [*self.errors, {"stage": stage, "number": number, "before": before, "after": after}]
        self.judged, self.told = True, 0.0

    def stop(self) -> bool:
        """Whether to stop and to keep what there is: not before there is something."""
        return self.judged and self.asked is not None and self.asked()

    def break_off(self) -> None:
        """The fits that have not begun will not come."""
        self.following = []

    def go_on(self) -> None:
        """What comes later begins."""
        self.planned, self.later = self.later, {}

    def skip(self) -> None:
        """Nothing comes later."""
        self.later = {}
        self.bar.update_absolute(self.before, self.total)

    def finish(self) -> None:
        """A fit is done, perhaps with fewer evaluations than planned; after the last the bar is at its right end."""
        self.spent.update(self.counts)
        self.counts = {}
        self.planned, *self.following = self.following or [{}]
        self.bar.update_absolute(self.before, self.total)

    def _picture(self, now: float) -> Any:
        if self.previewer is None or self.denoised is None or now - self.pictured < _PICTURE_SECONDS:
            return None
        self.pictured = now
        return self.previewer.decode_latent_to_preview_image("JPEG", self.denoised[:1])

    def _state(self, now: float) -> dict[str, Any]:
        """The whole of it every time, so that a page that was reloaded has it too."""
        evaluations = self.before + sum(self.counts.values())
        return {
            "node": self.place.node,
            "workflow": self.place.workflow,
            "stage": self.stage,
            "stages": [{"name": name, "done": done, "planned": number} for name, (done, number) in self.stages.items()],
            "done": evaluations,
            "total": self.total,
            "fits": len(self.following) + bool(self.planned),
            "seconds_left": self._seconds_left(now, evaluations),
            "pictures": pictures(self.total),
            "can_stop": self.judged and self.asked is not None,
            "stopping": self.stop(),
            "errors": self.errors,
        }

    def _seconds_left(self, now: float, evaluations: int) -> float | None:
        """By the model calls so far; None as long as they say too little."""
        if self.first is None or now - self.first[0] < _SURE_SECONDS or evaluations <= self.first[1]:
            return None
        return (now - self.first[0]) / (evaluations - self.first[1]) * max(self.total - evaluations, 0)
