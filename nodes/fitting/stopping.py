"""Stop and keep: which fits run, and which of them somebody has asked to end with what they have.

A fit runs in the host's worker thread, and the page asks in the server's.
"""

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_running: dict[Hashable, list[threading.Event]] = {}


@contextmanager
def stoppable(place: Hashable) -> Iterator[Callable[[], bool]]:
    """Around a fit: yields whether it was asked to stop. ``place`` is its node and workflow."""
    asked = threading.Event()
    with _lock:
        _running.setdefault(place, []).append(asked)
    try:
        yield asked.is_set
    finally:
        with _lock:
            _running[place].remove(asked)
            if not _running[place]:
                del _running[place]


def ask_to_stop(place: Hashable) -> bool:
    """Ask the fit at a place to stop; False where none runs."""
    with _lock:
        found = _running.get(place, [])
        for asked in found:
            asked.set()
    return bool(found)
