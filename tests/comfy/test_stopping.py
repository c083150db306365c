"""Stop and keep: a fit that is asked to stop ends with what it has, and says what is missing."""

import importlib.util
import re
import threading
import urllib.parse
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from dode.files.parameter_file import load_parameters
from tests.comfy.graphs import distill
from tests.comfy.server import ROOT, ComfyServer, Run
from tests.comfy.test_faults import QUICK, faulty, files, goes_on
from tests.comfy.test_routes import ask
from tests.comfy.workflow import Graph


@pytest.fixture
def stopping() -> ModuleType:
    """The module that keeps the running fits, anew: it needs nothing of the host."""
    spec = importlib.util.spec_from_file_location("stopping", ROOT / "nodes" / "fitting" / "stopping.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_only_the_fit_that_was_meant_is_asked(stopping: ModuleType) -> None:
    here, there = ("7", "one"), ("7", "another")
    with stopping.stoppable(here) as asked, stopping.stoppable(there) as other:
        assert not stopping.ask_to_stop(("8", "one"))
        assert not stopping.ask_to_stop(("7", None))
        assert stopping.ask_to_stop(here)
        assert (asked(), other()) == (True, False)
        assert stopping.ask_to_stop(here), "twice is no error"
    assert not stopping.ask_to_stop(here)
    with stopping.stoppable(here) as asked:
        assert not asked(), "an earlier wish is forgotten"


def test_a_fit_that_breaks_leaves_nothing_behind(stopping: ModuleType) -> None:
    with pytest.raises(ValueError, match="broken"), stopping.stoppable("here"):
        raise ValueError("broken")
    assert not stopping.ask_to_stop("here")
    assert stopping._running == {}


def test_fits_come_and_go_while_others_are_asked_to_stop(stopping: ModuleType) -> None:
    heard: list[bool] = []

    def fit(number: int) -> None:
        for _ in range(200):
            with stopping.stoppable(number % 3) as asked:
                stopping.ask_to_stop(number % 3)
                heard.append(asked())

    threads = [threading.Thread(target=fit, args=(number,)) for number in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert heard == [True] * 1800
    assert stopping._running == {}


def stop(comfy: ComfyServer, node: str, **headers: str) -> tuple[int, bytes]:
    return ask(comfy, f"/dode/stop?{urllib.parse.urlencode({'node': node})}", b"", **headers)


def test_a_node_on_which_no_fit_runs_cannot_be_stopped(comfy: ComfyServer) -> None:
    status, answer = stop(comfy, "77")
    assert status == 404
    assert b"No fit that could be stopped runs on node '77'" in answer
    assert ask(comfy, "/dode/stop", b"")[0] == 404
    assert ask(comfy, "/dode/stop?node=77")[0] in (404, 405), "a plain link does not stop anything"


@pytest.mark.parametrize("headers", [{"Origin": "http://elsewhere.example"}, {"Sec_Fetch_Site": "cross-site"}])
def test_other_pages_cannot_stop(comfy: ComfyServer, headers: dict[str, str]) -> None:
    assert stop(comfy, "77", **headers)[0] == 403


def states(run: Run) -> list[dict[str, Any]]:
    return [message["data"] for message in run.messages if message["type"] == "dode.progress"]


def stopped_at(comfy: ComfyServer, stage: str, save_as: str, **changes: Any) -> tuple[str, Run, list[Any]]:
    """The report's text, the run, and the entries of its file, of a fit that was asked to stop when a stage began."""
    graph = Graph()
    node = distill(graph, faulty(graph, "none", hold=stage), **{**QUICK, **changes}, save_as=f"stopped/{save_as}")
    answers: list[tuple[int, bytes]] = []

    def watch(run: Run) -> None:
        if not answers and any(state["stage"] == stage for state in states(run)):
            answers.append(stop(comfy, node))

    run = comfy.run(graph.prompt, watch)
    assert run.status == "success", run.error
    assert answers == [(200, b'{"stopping": true}')]
    path = comfy.base / "output" / "dode" / "stopped" / f"{save_as}.safetensors"
    return run.outputs[node]["text"][0], run, list(load_parameters(path).entries)


def test_a_fit_that_is_stopped_keeps_what_it_has(comfy: ComfyServer) -> None:
    text, run, entries = stopped_at(comfy, "refine", "first", cfg=3.0, also_steps="4", also_cfg="5")
    (entry,) = entries
    assert (len(entry.parameters.sigmas) - 1, entry.guidance) == (3, 3)
    assert "Stopped early: the best found so far was kept. Missing: 4 steps at guidance 3; 3, 4 steps at guidance 5." in text
    assert "stopped/first.safetensors" in text
    # Nothing was fitted yet: kept is the best start, and the file does not claim more.
    assert not np.any(entry.parameters.values)
    assert entry.report.error_distilled == entry.report.error_base
    assert entry.report.model_evaluations["teacher"] > 0
    assert entry.report.model_evaluations["check"] > 0
    assert entry.recipe["stopped_early"] is True
    assert "compare" not in {state["stage"] for state in states(run)}, "who stops does not wait for a comparison"
    value, most = run.progress(run.executed[-1])[-1]
    assert value == most
    goes_on(comfy)


def test_there_is_something_to_keep_once_a_result_was_judged(comfy: ComfyServer) -> None:
    """Asked before that, the fit goes on until there is."""
    _, run, entries = stopped_at(comfy, "teacher", "early", seed=3)
    assert len(entries) == 1
    assert [state["can_stop"] for state in states(run) if state["stage"] in ("teacher", "search")].count(True) == 0
    assert entries[0].report.error_distilled == entries[0].report.error_base


def test_guidance_scales_that_are_done_stay_when_a_later_one_is_stopped(comfy: ComfyServer) -> None:
    graph = Graph()
    node = distill(
        graph, faulty(graph, "none", seconds=0.01), **QUICK, seed=4, cfg=3.0, also_cfg="5, 7", save_as="stopped/later"
    )
    answers: list[int] = []

    def watch(run: Run) -> None:
        stages = [state["stage"] for state in states(run)]
        if not answers and "refine" in stages and stages[-1] == "teacher":
            answers.append(stop(comfy, node)[0])

    run = comfy.run(graph.prompt, watch)
    assert (run.status, answers) == ("success", [200])
    entries = load_parameters(comfy.base / "output" / "dode" / "stopped" / "later.safetensors").entries
    scales = [entry.guidance for entry in entries]
    assert scales in ([3], [3, 5])
    first, *later = entries
    assert first.report is not None
    assert first.report.error_distilled < first.report.error_base
    assert ["stopped_early" in entry.recipe for entry in entries] == [False, *(True for _ in later)]
    missing = "; ".join(f"3 steps at guidance {scale}" for scale in (3, 5, 7) if scale not in scales)
    assert f"Missing: {missing}." in run.outputs[node]["text"][0]


def test_a_comparison_that_is_stopped_leaves_the_fit_as_it_is(comfy: ComfyServer) -> None:
    text, _, entries = stopped_at(comfy, "compare", "compared", seed=5)
    assert "Stopped early" not in text
    assert "now come closer" not in text
    assert "No gain here" not in text
    assert "stopped_early" not in entries[0].recipe


def test_a_report_lists_evaluations_by_stage_the_comparison_among_them(comfy: ComfyServer) -> None:
    graph = Graph()
    node = distill(graph, faulty(graph, "none"), **QUICK, seed=6)
    run = comfy.run(graph.prompt)
    assert run.status == "success", run.error
    text = run.outputs[node]["text"][0]
    table = text.split("a guided one counted once:\n")[1]
    counts = {stage: int(number.replace(",", "")) for stage, number in re.findall(r"^  (\w+) +([\d,]*\d)", table, re.MULTILINE)}
    order = [stage for stage in ("teacher", "search", "refine", "check", "compare", "pictures") if stage in counts]
    assert list(counts) == order
    assert {"teacher", "refine", "check", "compare", "pictures"} <= set(counts)
    assert counts["pictures"] == 2 * 2 * 3, "two samples without and with what was learned, in three steps"
    total = sum(counts.values())
    assert re.search(rf"^  in all +{total:,}, as many as {round(total / 20)} pictures of 20 steps take$", table, re.MULTILINE)
    assert f"1 prompt, {total} model evaluations in " in text
    last = states(run)[-1]
    assert last["pictures"] == round(last["total"] / 20)
    assert last["can_stop"]
    assert not last["stopping"]


def test_the_papers_fit_cannot_be_stopped(comfy: ComfyServer) -> None:
    graph = Graph()
    node = distill(graph, faulty(graph, "none"), seed=8)
    answers: list[int] = []

    def watch(run: Run) -> None:
        if not answers and any(state["stage"] == "student" for state in states(run)):
            answers.append(stop(comfy, node)[0])

    before = files(comfy)
    run = comfy.run(graph.prompt, watch)
    assert (run.status, answers) == ("success", [404])
    assert not any(state["can_stop"] for state in states(run))
    assert files(comfy) == before
