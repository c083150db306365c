"""Ctrl-C on the command line: once stops a fit and keeps what it has, twice drops it."""

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from dode import Guided, load_parameters
from dode.__main__ import main
from dode.cli import commands
from dode.cli.interrupt import stop_at_interrupt
from dode.cli.progress import Bars
from dode.fit.cost import cost_text
from tests.test_cli import GuidedRing

MODEL = ["--model", "tests.test_interrupt:Holding"]
FIT = ["--evaluations", "3,4", "--guidance", "2,3", "--samples", "16"]
_PATIENCE = 60.0


class Holding(GuidedRing):
    """The ring. At the call ``HOLD_AT`` it says so and waits until the file ``HOLD_UNTIL`` is there."""

    calls = 0

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, guidance: Any, both: bool) -> torch.Tensor | Guided:
        type(self).calls += 1
        if str(self.calls) == os.environ.get("HOLD_AT"):
            print("holding", file=sys.stderr, flush=True)
            end = time.monotonic() + _PATIENCE
            while not Path(os.environ["HOLD_UNTIL"]).exists() and time.monotonic() < end:
                time.sleep(0.01)
        return super().__call__(x, sigma, guidance, both)


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """What runs in the background ignores Ctrl-C, and so would the processes started here."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def first_calls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """The number of the first model call of each stage."""
    found: dict[str, int] = {}
    model = importlib.import_module(MODEL[1].partition(":")[0]).Holding  # as the command line finds it

    class Watching(Bars):
        def __call__(self, stage: str, done: int, total: int) -> None:
            if done:
                found.setdefault(stage, model.calls)
            super().__call__(stage, done, total)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands, "Bars", Watching)
        patch.setattr(model, "calls", 0)
        assert main(["distill", str(tmp_path_factory.mktemp("calls") / "a.safetensors"), *MODEL, *FIT]) == 0
    return found


@contextmanager
def held(path: Path, at: int, go: Path) -> Iterator[subprocess.Popen[str]]:
    """A fit in a process of its own, which waits in its model until there is ``go``."""
    environment = {**os.environ, "HOLD_AT": str(at), "HOLD_UNTIL": str(go)}
    command = [sys.executable, "-m", "dode", "distill", str(path), *MODEL, *FIT]
    pipe = subprocess.PIPE
    root = Path(__file__).parent.parent
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment, cwd=root) as process:
        try:
            wait_for("holding", process)
            yield process
        finally:
            process.kill()


def wait_for(words: str, process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if words in line:
            return
    raise AssertionError(f"{words!r} was not said:\n{''.join(lines)}")


def test_ctrl_c_once_stops_and_keeps(tmp_path: Path, first_calls: dict[str, int]) -> None:
    path, go = tmp_path / "a.safetensors", tmp_path / "go"
    with held(path, first_calls["refine"], go) as process:
        process.send_signal(signal.SIGINT)
        wait_for("what is fitted so far is kept. Ctrl-C again drops it", process)
        go.touch()
        said, _ = process.communicate(timeout=_PATIENCE)
    assert process.returncode == 0
    (entry,) = load_parameters(path).entries
    assert (entry.evaluations, entry.guidance) == (3, 2)
    assert entry.report is not None
    assert entry.report.error_distilled <= entry.report.error_base
    assert entry.recipe["stopped_early"] is True
    assert "Stopped early: the best found so far was kept.\nMissing at guidance 2: 4 evaluations.\n" in said
    assert "Missing at guidance 3: 3, 4 evaluations.\n" in said
    assert f"Saved as {path}" in said
    assert main(["check", str(path), *MODEL]) == 0


def test_ctrl_c_twice_drops_the_fit(tmp_path: Path, first_calls: dict[str, int]) -> None:
    path = tmp_path / "a.safetensors"
    with held(path, first_calls["refine"], tmp_path / "go") as process:
        process.send_signal(signal.SIGINT)
        wait_for("Ctrl-C again drops it", process)
        process.send_signal(signal.SIGINT)
        said, why = process.communicate(timeout=_PATIENCE)
    assert process.returncode == 130
    assert "nothing was saved that was not finished" in why
    assert "Saved" not in said
    assert not list(tmp_path.iterdir())


def test_ctrl_c_before_there_is_anything_to_keep(tmp_path: Path, first_calls: dict[str, int]) -> None:
    path, go = tmp_path / "a.safetensors", tmp_path / "go"
    with held(path, first_calls["search"], go) as process:
        process.send_signal(signal.SIGINT)
        wait_for("Ctrl-C again drops it", process)
        go.touch()
        _, why = process.communicate(timeout=_PATIENCE)
    assert process.returncode == 130
    assert "nothing was saved that was not finished" in why
    assert not path.exists()


def test_the_handler_is_as_before_afterwards_and_only_the_main_thread_has_one() -> None:
    before = signal.getsignal(signal.SIGINT)
    with stop_at_interrupt() as stop:
        assert signal.getsignal(signal.SIGINT) is not before
        assert not stop()
        signal.raise_signal(signal.SIGINT)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    seen: list[Any] = []

    def elsewhere() -> None:
        with stop_at_interrupt() as stop:
            seen.extend([signal.getsignal(signal.SIGINT), stop()])

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [before, False]


def test_a_process_that_ignores_ctrl_c_goes_on_ignoring_it() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_at_interrupt() as stop:
            signal.raise_signal(signal.SIGINT)
            assert not stop()
    finally:
        signal.signal(signal.SIGINT, before)


def test_how_long_it_takes_is_said_once_when_the_first_calls_tell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr("dode.cli.progress.time.monotonic", lambda: now)
    with Bars("", [{"teacher": 100, "search": 50, "refine": 250}, {"teacher": 50, "refine": 1550}]) as bars:
        bars("teacher", 0, 100)
        for done in range(10, 110, 10):
            now += 0.5 if done > 10 else 30.0  # to load takes long
            bars("teacher", done, 100)
        bars("search", 80, 80)
    said = [line for line in capsys.readouterr().err.splitlines() if "evaluations in all" in line]
    # 40 in 2 seconds, with 50 of 2,000 done
    assert said == ["About 2,000 model evaluations in all, as many as 100 pictures of 20 steps take; about 2 min left."]
    assert bars.counts == {"teacher": 100, "search": 80}


def test_evaluations_by_stage_are_a_table() -> None:
    text = cost_text({"check": 12, "teacher": 1000, "refine": 488, "search": 0})
    assert text.splitlines() == [
        "Model evaluations, a guided one counted once:",
        "  teacher  1,000",
        "  refine     488",
        "  check       12",
        "  in all   1,500, as many as 75 pictures of 20 steps take",
    ]


def test_the_command_line_prints_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for mode, stages in (
        ("balanced", ["teacher", "search", "refine", "check"]),
        ("paper", ["teacher", "search", "student", "check"]),
    ):
        path = tmp_path / f"{mode}.safetensors"
        options = ["--mode", mode, "--evaluations", "3", "--samples", "8", "--model", "tests.test_cli:GuidedRing"]
        assert main(["distill", str(path), *options]) == 0
        said = capsys.readouterr().out
        rows = [line.split() for line in said.split("a guided one counted once:\n")[1].splitlines()[: len(stages) + 1]]
        (entry,) = load_parameters(path).entries
        assert entry.report is not None
        counts = {stage: count for stage, count in entry.report.model_evaluations.items() if count}
        assert [row[0] for row in rows] == [*stages, "in"]
        assert {row[0]: int(row[1].replace(",", "")) for row in rows[:-1]} == counts
        assert "Stopped early" not in said
