"""Progress of a distillation on its node: bar, picture, stages, errors so far, and how long it will still take."""

import base64
import io
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from dode.fit.cost import pictures

from ..host import feature, interrupted, previewer, send_event
from .ledger import Ledger

_SURE_SECONDS = 2.0  # of model calls, from which on they say how long all of them take
_PICTURE_SECONDS = 0.5
_PICTURE_SIDE = 256
_EVENT_SECONDS = 0.25
EVENT = "dode.progress"


class Place(NamedTuple):
    """The node that shows it, and its workflow: node ids are the same in many."""

    node: str | None = None
    workflow: str | None = None


NOWHERE = Place()


class Progress:
    """Called by the fit after every model call; raises the host's interrupt if the user has pressed cancel.

    ``plans`` and ``later`` are a ``Ledger``'s. ``asked`` says whether somebody has asked the fit to stop and to keep what it
    has; None where it cannot.

    Attributes:
        stage: the one that is under way.
        curve: of each sampler that is or was fitted, the held-out errors so far, as ``measured`` heard of them.
    """

    def __init__(
        self,
        model: Any,
        place: Place,
        plans: Sequence[dict[str, int]],
        later: Sequence[dict[str, int]] = (),
        asked: Callable[[], bool] | None = None,
    ):
        self.place, self.asked = place, asked
        self.ledger, self.clock, self.preview = Ledger(plans, later), _Clock(), _Preview(model)
        self.bar = feature("comfy.utils:ProgressBar")(self.ledger.total, node_id=place.node)
        self.stage, self.told = "", 0.0
        self.curve: list[dict[str, Any]] = []

    @property
    def spent(self) -> Counter[str]:
        """Evaluations by stage of what is done."""
        return self.ledger.spent

    def show(self, denoised: Tensor) -> None:
        """The model's newest output, for the preview."""
        self.preview.denoised = denoised

    def __call__(self, stage: str, done: int, total: int) -> None:
        interrupted()
        if not self.ledger.take(stage, done, total):  # counted in rows, and done in no time
            return
        if stage != self.stage:
            self.stage, self.told = stage, 0.0
        now = time.monotonic()
        self.clock.heard(now, done)
        self.bar.update_absolute(self.ledger.done, self.ledger.total)
        if now - self.told >= _EVENT_SECONDS:
            self.told = now
            send_event(EVENT, self._state(now))

    def measured(self, number: int, start: float, best: float) -> None:
        """Held-out errors of the undistilled start and of the best so far: a point of the curve that grows on the node."""
        if not (math.isfinite(start) and math.isfinite(best)):
            return  # what browsers read as JSON has no such numbers
        fit = sum(not point["number"] for point in self.curve) + (not number)
        point = {"fit": fit, "number": number, "evaluations": self.ledger.done, "start": start, "best": best}
        self.curve, self.told = [*self.curve, point], 0.0

    def stop(self) -> bool:
        """Whether to stop and to keep what there is: not before there is something."""
        return bool(self.curve) and self.asked is not None and self.asked()

    def break_off(self) -> None:
        """The fits that have not begun will not come."""
        self.ledger.drop_fits()

    def finish(self) -> None:
        """A fit, or what came next, is done or left out; after the last the bar is at its right end."""
        self.ledger.finish()
        self.bar.update_absolute(self.ledger.done, self.ledger.total)

    def _state(self, now: float) -> dict[str, Any]:
        """The whole of it every time, so that a page that was reloaded has it too."""
        ledger = self.ledger
        return {
            "node": self.place.node,
            "workflow": self.place.workflow,
            "stage": self.stage,
            "stages": [{"name": name, "done": done, "planned": number} for name, (done, number) in ledger.stages.items()],
            "done": ledger.done,
            "total": ledger.total,
            "seconds_left": self.clock.left(now, ledger.done, ledger.total),
            "pictures": pictures(ledger.total),
            "can_stop": bool(self.curve) and self.asked is not None,
            "stopping": self.stop(),
            "curve": self.curve,
            "picture": self.preview.picture(now),
        }


class _Clock:
    """How long it will still take, by the model calls so far; the first one loads and warms up."""

    def __init__(self) -> None:
        self.first: tuple[float, int] | None = None  # when it had ended, and evaluations until then

    def heard(self, now: float, done: int) -> None:
        if self.first is None and done:
            self.first = (now, done)

    def left(self, now: float, done: int, total: int) -> float | None:
        """Seconds; None as long as the calls say too little."""
        if self.first is None or now - self.first[0] < _SURE_SECONDS or done <= self.first[1]:
            return None
        return (now - self.first[0]) / (done - self.first[1]) * max(total - done, 0)


class _Preview:
    """The host's preview of the model's newest output, now and then, as an address that holds the picture. It does not go with
    the bar: there the last one would stay on the node for good."""

    def __init__(self, model: Any):
        self.previewer, self.shown = previewer(model), 0.0
        self.denoised: Tensor | None = None

    def picture(self, now: float) -> str | None:
        if self.previewer is None or self.denoised is None or now - self.shown < _PICTURE_SECONDS:
            return None
        self.shown = now
        _, picture, _ = self.previewer.decode_latent_to_preview_image("JPEG", self.denoised[:1])
        picture.thumbnail((_PICTURE_SIDE, _PICTURE_SIDE))
        data = io.BytesIO()
        picture.convert("RGB").save(data, "JPEG", quality=80)
        return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
