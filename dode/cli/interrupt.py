"""Ctrl-C in two steps: the first asks a fit to stop and to keep what it has, the second drops it."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SAID = b"\ndode: stopping; what is fitted so far is kept. Ctrl-C again drops it.\n"
_STDERR = 2


@contextmanager
def stop_at_interrupt() -> Iterator[Callable[[], bool]]:
    """Yields whether Ctrl-C was pressed. A second one does what the first would have done outside of here.

    Signals belong to the main thread: in others, and where Ctrl-C is ignored, this changes nothing.
    """
    asked = threading.Event()
    old = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(old):
        yield asked.is_set
        return

    def first(number: int, frame: FrameType | None) -> None:
        asked.set()
        signal.signal(signal.SIGINT, old)
        os.write(_STDERR, _SAID)  # not by print, which may be what was interrupted

    signal.signal(signal.SIGINT, first)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, old)
