"""Progress bars for the command line: one per stage of the fit. Without tqdm there are none."""

import sys
from types import TracebackType
from typing import Any


class Bars:
    """A progress callback for ``distill``; use as a context manager."""

    def __init__(self, label: str = ""):
        self.label, self._bar, self._stage = label, None, ""
        try:
            from tqdm.auto import tqdm
        except ImportError:
            tqdm = None
        self._tqdm: Any = tqdm

    def __call__(self, stage: str, done: int, total: int) -> None:
        if self._tqdm is None:
            return
        if stage == "fit":  # goes on inside the student's stage
            if self._bar is not None:
                self._bar.set_postfix_str(f"fit {done}/{total} rows", refresh=False)
            return
        if self._bar is None or stage != self._stage:
            self.close()
            self._stage = stage
            self._bar = self._tqdm(total=total, desc=f"{self.label}{stage:>8}", unit="eval", file=sys.stderr, leave=False)
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __enter__(self) -> "Bars":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
