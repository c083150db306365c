"""Progress on the command line: a bar for each stage of the fit, and once how long all of it takes. Without tqdm no bars."""

import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from dode.fit import ranks
from dode.fit.cost import pictures_text

_SURE_SECONDS = 2.0  # of model calls, from which on they say how long all of them take
_MINUTES = 90  # seconds from which on minutes are said


class Bars:
    """A progress callback for ``distill`` and ``distill_students``; use as a context manager.

    Args:
        label: words before each bar.
        plans: planned evaluations by stage, of this fit and of those after it. Without them nothing is said beforehand.

    Attributes:
        counts: evaluations by stage so far.
    """

    def __init__(self, label: str = "", plans: Sequence[Mapping[str, int]] = ()):
        self.label, self._bar, self._stage = label, None, ""
        self.counts: dict[str, int] = {}
        self._plan, self._later = dict(plans[0]) if plans else {}, sum(sum(plan.values()) for plan in plans[1:])
        self._first: tuple[float, int] | None = None  # when the first model call had ended, and evaluations until then
        self._heard = ranks.number() == 0
        try:
            from tqdm.auto import tqdm
        except ImportError:
            tqdm = None
        self._tqdm: Any = tqdm

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage == "fit":  # rows, and inside the student's stage
            if self._bar is not None:
                self._bar.set_postfix_str(f"fit {done}/{total} rows", refresh=False)
            return
        self.counts[stage] = done
        if not self._heard:
            return
        self._announce(stage, total)
        if self._tqdm is None:
            return
        if self._bar is None or stage != self._stage:
            self.close()
            self._stage = stage
            self._bar = self._tqdm(total=total, desc=f"{self.label}{stage:>8}", unit="eval", file=sys.stderr, leave=False)
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def _announce(self, stage: str, total: int) -> None:
        """Say once how many evaluations all of it takes and how long, as soon as the first of them tell."""
        if not self._plan:
            return
        self._plan[stage] = total if stage == "teacher" else max(total, self._plan.get(stage, 0))
        evaluations, now = sum(self.counts.values()), time.monotonic()
        if self._first is None:  # the first call loads and warms up
            self._first = (now, evaluations) if evaluations else None
            return
        seconds, since = now - self._first[0], evaluations - self._first[1]
        if seconds < _SURE_SECONDS or not since:
            return
        planned = sum(self._plan.values()) + self._later
        left = seconds / since * max(planned - evaluations, 0)
        long = f"{left / 60:.0f} min" if left >= _MINUTES else f"{left:.0f} s"
        self._say(f"About {planned:,} model evaluations in all, as many as {pictures_text(planned)} take; about {long} left.")
        self._plan = {}

    def _say(self, line: str) -> None:
        if self._tqdm is None:
            print(line, file=sys.stderr, flush=True)
        else:
            self._tqdm.write(line, file=sys.stderr)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __enter__(self) -> "Bars":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
