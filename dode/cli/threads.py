"""How many threads torch should use: with more than there are free cores, each waits for the slowest, and a run takes ten times
as long."""

import time
from collections.abc import Callable

import torch

_CALLS = 3


def use_fastest(call: Callable[[], object]) -> int:
    """Try a call with one thread and with as many as torch took by itself, keep what was faster, and return it.

    Example:
        >>> use_fastest(lambda: torch.ones(8, 8) @ torch.ones(8, 8)) in (1, torch.get_num_threads())
        True
    """
    usual = torch.get_num_threads()

    def seconds(threads: int) -> float:
        torch.set_num_threads(threads)
        call()
        began = time.perf_counter()
        for _ in range(_CALLS):
            call()
        return time.perf_counter() - began

    chosen = min((1, usual), key=seconds) if usual > 1 else usual
    torch.set_num_threads(chosen)
    return chosen
