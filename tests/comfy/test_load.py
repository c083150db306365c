"""Load, in short: ``benchmarks/load.py`` has the figures."""

import statistics

import pytest

from benchmarks.load import MICRO_BATCH, RUNS, TEACHER, kept, overhead, queue
from tests.comfy.server import ComfyServer


def test_runs_of_all_nodes_leave_no_memory_behind(comfy: ComfyServer) -> None:
    memory = queue(comfy, 3 * len(RUNS))
    growth = statistics.median(memory[-len(RUNS) :]) - statistics.median(memory[len(RUNS) : 2 * len(RUNS)])
    print(f"{growth:+.1f} MiB from run {len(RUNS)} to {len(memory)}")
    assert growth < 48  # a model kept by each of 6 runs would be more, and so would their pictures


def test_what_a_fit_costs_can_be_told(comfy: ComfyServer) -> None:
    found = overhead(comfy, (4, 16, 16), 2 * MICRO_BATCH, width=8)
    assert found["calls"] >= 2 * (TEACHER + 10)
    assert 0 < found["guider"] < found["total"]


@pytest.mark.parametrize("mode", ["paper", "balanced"])
def test_nothing_stays_where_the_network_runs(mode: str) -> None:
    assert kept((4, 32, 32), mode, samples=8) <= 2
