"""Things go wrong: nothing is lost, nothing is half written, and ComfyUI goes on."""

import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dode.files.parameter_file import load_parameters
from tests.comfy.graphs import STEPS, demo, distill, ksampler, sampler_custom
from tests.comfy.server import ComfyServer, Run
from tests.comfy.workflow import Graph, link
from tests.comfyui import comfyui_dir

QUICK = {"mode": "balanced", "solver": "dpmpp_2m", "teacher": "dpmpp_3m", "steps": 3}


def files(comfy: ComfyServer) -> set[Path]:
    return {path for path in (comfy.base / "output" / "dode").rglob("*") if path.is_file()}


def faulty(graph: Graph, kind: str, after: int = 0, seconds: float = 0.0, hold: str = "") -> dict[str, Any]:
    on = demo(graph)
    node = graph.add("DodeTestFault", model=on["model"], kind=kind, after=after, seconds=seconds, hold=hold)
    return {**on, "model": link(node)}


def goes_on(comfy: ComfyServer, seed: int = 77) -> None:
    """The server still samples."""
    graph = Graph()
    graph.save_latent(link(ksampler(graph, demo(graph), sampler_name="euler", seed=seed + time.time_ns() % 1_000_000)))
    run = comfy.run(graph.prompt)
    assert run.status == "success", run.error


@pytest.mark.parametrize(
    ("mode", "stage"),
    [
        ("paper", "teacher"),
        ("paper", "student"),
        ("paper", "check"),
        ("balanced", "teacher"),
        ("balanced", "search"),
        ("balanced", "refine"),
        ("balanced", "check"),
    ],
)
def test_cancel_at_every_stage(comfy: ComfyServer, mode: str, stage: str) -> None:
    graph = Graph()
    distill(graph, faulty(graph, "none", hold=stage), **{**QUICK, "mode": mode}, save_as=f"cancelled/{mode}_{stage}")
    before, asked = files(comfy), []

    def cancel(run: Run) -> None:
        states = [message["data"] for message in run.messages if message["type"] == "dode.progress"]
        if not asked and any(state["stage"] == stage for state in states):
            asked.append(True)
            comfy.post("/interrupt", {})

    run = comfy.run(graph.prompt, cancel)
    assert asked
    assert run.status == "interrupted"
    assert files(comfy) == before
    goes_on(comfy)


def test_cancel_while_sampling_and_comparing(comfy: ComfyServer) -> None:
    graph = Graph()
    made = distill(graph, demo(graph), save_as="cancel_later", seed=5)
    assert comfy.run(graph.prompt).status == "success", made
    for what in ("sampling", "comparing"):
        graph = Graph()
        on = faulty(graph, "none", seconds=0.3)
        loaded = graph.add("DODELoad", file="cancel_later.safetensors", steps=0)
        if what == "sampling":
            node = sampler_custom(graph, on, link(loaded, 1), link(loaded, 2))
            graph.save_latent(link(node))
        else:
            inputs = {name: on[name] for name in ("model", "positive", "negative", "latent", "vae")} | {"cfg": 2.0, "seed": 1}
            node = graph.add("DODECompare", parameters=link(loaded), reference="euler", reference_substeps=2, **inputs)
        asked: list[bool] = []

        def cancel(run: Run, node: str = node, asked: list[bool] = asked) -> None:
            if not asked and run.progress(node):
                asked.append(True)
                comfy.post("/interrupt", {})

        run = comfy.run(graph.prompt, cancel)
        assert (bool(asked), run.status) == (True, "interrupted"), what
    goes_on(comfy)


@pytest.mark.parametrize("mode", ["paper", "balanced"])
def test_out_of_memory_in_the_middle(comfy: ComfyServer, mode: str) -> None:
    """With half as many samples at once it goes on where it was, and the result is the same."""
    graph = Graph()
    for kind in ("none", "too many"):
        on = faulty(graph, kind, after=12)
        distill(graph, on, **{**QUICK, "mode": mode}, samples=6, micro_batch=4, seed=13, save_as=f"memory/{mode}_{kind}")
    run = comfy.run(graph.prompt)
    assert run.status == "success", run.error
    assert "out of memory with 4 samples at once; going on with 2 at a time" in comfy.log()
    found = [
        load_parameters(comfy.base / "output" / "dode" / "memory" / f"{mode}_{kind}.safetensors").entries[0].parameters
        for kind in ("none", "too many")
    ]
    np.testing.assert_allclose(found[0].values, found[1].values, rtol=0, atol=1e-3)
    np.testing.assert_allclose(found[0].sigmas, found[1].sigmas, rtol=1e-3)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("always too many", "no memory left, says the test"),
        ("error", "something broke, says the test"),
        ("nan", "returned NaN or infinity at sigma"),
        ("inf", "returned NaN or infinity at sigma"),
    ],
)
def test_what_cannot_be_helped_says_so(comfy: ComfyServer, kind: str, message: str) -> None:
    graph = Graph()
    distill(graph, faulty(graph, kind, after=3), save_as=f"failed/{kind}")
    before = files(comfy)
    run = comfy.run(graph.prompt)
    assert run.status == "error"
    assert message in run.error
    assert files(comfy) == before
    goes_on(comfy)


def test_a_disk_that_refuses_does_not_undo_the_fit(comfy: ComfyServer) -> None:
    """A plain file where a folder should be stands for a disk that cannot be written, here and where it is tried next."""
    block, second = (comfy.base / place / "dode" / "blocked" for place in ("output", "models"))
    for path in (block, second):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("no folder")
    graph = Graph()
    on = demo(graph)
    node = distill(graph, on, save_as="blocked/here", seed=17)
    shown = graph.add("DODEInspect", parameters=link(node))
    run = comfy.run(graph.prompt)
    assert run.status == "success", run.error
    assert "NOT SAVED" in run.outputs[node]["text"][0]
    assert "could not be saved" in comfy.log()
    assert "λ" in run.outputs[shown]["text"][0]

    words = {"author": "", "licence": "", "notes": ""}
    graph.add("DODESave", parameters=link(node), name="after_all", **words)
    again = comfy.run(graph.prompt)
    assert again.status == "success", again.error
    assert node not in again.executed  # the fit was not made a second time
    assert load_parameters(block.parent / "after_all.safetensors").entries

    graph.prompt["99"] = {"class_type": "DODESave", "inputs": {"parameters": link(node), "name": "blocked/too", **words}}
    refused = comfy.run(graph.prompt)
    assert refused.status == "error"
    assert "could not be written" in refused.error
    block.unlink()
    second.unlink()
    goes_on(comfy)


def test_a_bad_name_is_refused_before_the_fit(comfy: ComfyServer) -> None:
    graph = Graph()
    node = distill(graph, demo(graph), save_as="../escaped", seed=18)
    run = comfy.run(graph.prompt)
    assert run.status == "error"
    assert "no name for a parameter file" in run.error
    assert not run.progress(node) or run.progress(node)[-1][0] == 0


def test_a_file_that_changes_and_goes(comfy: ComfyServer) -> None:
    folder = comfy.base / "output" / "dode"
    graph = Graph()
    for seed in (1, 2):
        distill(graph, demo(graph), seed=seed, cfg=2.2, save_as=f"changing/{seed}")
    assert comfy.run(graph.prompt).status == "success"
    target = folder / "changing" / "now.safetensors"
    shutil.copy(folder / "changing" / "1.safetensors", target)

    graph = Graph()
    on = demo(graph)
    loaded = graph.add("DODELoad", file="changing/now.safetensors", steps=0)
    saved = graph.save_latent(link(sampler_custom(graph, on, link(loaded, 1), link(loaded, 2), cfg=2.2)))
    first = comfy.run(graph.prompt)
    assert first.status == "success", first.error
    unchanged = comfy.run(graph.prompt)
    assert loaded not in unchanged.executed

    shutil.copy(folder / "changing" / "2.safetensors", target)
    second = comfy.run(graph.prompt)
    assert loaded in second.executed
    assert not torch.equal(comfy.latent(first, saved), comfy.latent(second, saved))

    target.write_bytes(target.read_bytes()[:700])
    broken = comfy.run(graph.prompt)
    assert broken.status in ("error", "refused")
    assert "now.safetensors" in broken.error

    target.unlink()
    gone = comfy.run(graph.prompt)
    assert gone.status in ("error", "refused")
    assert "There is no parameter file" in gone.error
    goes_on(comfy)


def test_ksampler_with_a_broken_file_in_the_folder(comfy: ComfyServer) -> None:
    broken = comfy.base / "output" / "dode" / "broken.safetensors"
    broken.parent.mkdir(parents=True, exist_ok=True)
    broken.write_bytes(b"not a parameter file")
    graph = Graph()
    graph.save_latent(link(ksampler(graph, demo(graph), steps=9, cfg=1.3, seed=6)))
    run = comfy.run(graph.prompt)
    assert run.status == "success", run.error
    assert "broken.safetensors is left out" in comfy.log()
    broken.unlink()


def test_two_queues_at_once(comfy: ComfyServer) -> None:
    runs: list[Run] = []

    def queue(seed: int) -> None:
        graph = Graph()
        distill(graph, demo(graph), seed=seed, save_as="both")
        runs.append(comfy.run(graph.prompt))

    threads = [threading.Thread(target=queue, args=(seed,)) for seed in (101, 102, 103)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [run.status for run in runs] == ["success"] * 3
    found = sorted(path.name for path in files(comfy) if path.name.startswith("both"))
    assert found == ["both.safetensors", "both_00002.safetensors", "both_00003.safetensors"]
    reports = [load_parameters(comfy.base / "output" / "dode" / name).entries[0].report for name in found]
    assert {report.seed for report in reports if report is not None} == {101, 102, 103}


NAMES = ["サンプラー", "é und ü", "emoji 🎨👩‍🚀", "עברית", "e\u0301 decomposed", "a'b & c;d", "x" * 100, "dots...in.it"]


def test_names_with_any_characters(comfy: ComfyServer) -> None:
    graph = Graph()
    node = distill(graph, demo(graph), seed=3)
    for name in NAMES:
        graph.add("DODESave", parameters=link(node), name=name, author=name, licence="", notes=name)
    run = comfy.run(graph.prompt)
    assert run.status == "success", run.error
    graph = Graph()
    on = demo(graph)
    for name in NAMES:
        loaded = graph.add("DODELoad", file=f"{name}.safetensors", steps=STEPS, model=on["model"])
        graph.add("DODEInspect", parameters=link(loaded))
    run = comfy.run(graph.prompt)
    assert run.status == "success", run.error


def test_a_thousand_files(comfy: ComfyServer) -> None:
    folder = comfy.base / "output" / "dode" / "many"
    graph = Graph()
    distill(graph, demo(graph), cfg=2.7, steps=5, save_as="many/0")
    assert comfy.run(graph.prompt).status == "success"
    for number in range(1, 1000):
        shutil.copy(folder / "0.safetensors", folder / f"{number}.safetensors")
    start = time.monotonic()
    options = comfy.get("/object_info/DODELoad")["DODELoad"]["input"]["required"]["file"][1]["options"]
    assert sum(name.startswith("many") for name in options) == 1000
    graph = Graph()
    graph.save_latent(link(ksampler(graph, demo(graph), cfg=2.7, steps=5)))
    run = comfy.run(graph.prompt)
    print(f"a thousand files: listed, searched and sampled in {time.monotonic() - start:.1f} s")
    assert run.status == "success", run.error
    assert "KSampler uses many" in comfy.log()
    shutil.rmtree(folder)
    goes_on(comfy)


def test_killed_in_the_middle(tmp_path: Path) -> None:
    """What was saved is there, nothing half written, and the next server works."""
    server = ComfyServer(comfyui_dir(), tmp_path)
    try:
        graph = Graph()
        node = distill(graph, demo(graph), save_as="before", seed=3)
        assert server.run(graph.prompt).status == "success"
        graph = Graph()
        node = distill(graph, demo(graph), samples=256, teacher_substeps=50, save_as="killed", seed=4)

        def kill(run: Run) -> None:
            if len(run.progress(node)) > 3:
                os.kill(server.process.pid, signal.SIGKILL)

        run = server.run(graph.prompt, kill)
        assert run.status == ""
    finally:
        server.close()
    assert [path.name for path in files(server)] == ["before.safetensors"]
    server = ComfyServer(comfyui_dir(), tmp_path)
    try:
        graph = Graph()
        on = demo(graph)
        loaded = graph.add("DODELoad", file="before.safetensors", steps=0, model=on["model"])
        graph.save_latent(link(sampler_custom(graph, on, link(loaded, 1), link(loaded, 2))))
        distill(graph, on, save_as="killed", seed=4)
        run = server.run(graph.prompt)
        assert run.status == "success", run.error
    finally:
        server.close()
    assert sorted(path.name for path in files(server)) == ["before.safetensors", "killed.safetensors"]
