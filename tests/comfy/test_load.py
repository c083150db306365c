"""Load, in short: ``benchmarks/load.py`` has the figures."""

import statistics

import pytest

from benchmarks.load import MICRO_BATCH, RUNS, TEACHER, kept, overhead, queue
from tests.comfy.server import ComfyServer


def test_runs_of_all_nodes_leave_no_memory_behind(comfy: ComfyServer) -> None:
    memory = queue(comfy, 5 * len(RUNS))
    growth = statistics.median(memory[-len(RUNS) :]) - statistics.median(memory[len(RUNS) : 2 * len(RUNS)])
    print(f"{growth:+.1f} MiB from run {len(RUNS)} to {len(memory)}")
    assert growth < 48  # a model kept by each of 18 runs would be more, and so would their pictures


def test_a_fit_calls_the_model_as_often_as_it_must(comfy: ComfyServer) -> None:
    """Teacher, student, and the check of base, distilled and half a teacher on one micro-batch of held-out samples."""
    samples = 2 * MICRO_BATCH
    found = overhead(comfy, (4, 16, 16), samples, width=8)
    assert found["calls"] == 2 * (TEACHER + 10) + 10 + 10 + TEACHER // 2
    assert 0 < found["guider"] < found["total"]


@pytest.mark.parametrize("mode", ["paper", "balanced"])
def test_nothing_stays_where_the_network_runs(mode: str) -> None:
    assert kept((4, 32, 32), mode, samples=8) <= 2
