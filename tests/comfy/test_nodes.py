"""Each node, in a real ComfyUI."""

import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dode.demo.model import context_of, embedded_model
from dode.demo.pictures import CLASSES
from dode.files.parameter_file import load_parameters
from dode.fit.distill import distill as fit
from dode.fit.paper import FAMILIES
from dode.teacher import Teacher
from tests.comfy.graphs import CFG, STEPS, demo, distill, ksampler, watched
from tests.comfy.server import ComfyServer, Run
from tests.comfy.workflow import Graph, link

NODES = {
    "DODEDistillSampler", "DODEPromptSet", "DODESampler", "DODESigmas", "DODELoad", "DODESave", "DODEInspect", "DODECompare",
    "DODEDemoModel",
}  # fmt: skip


def saved(comfy: ComfyServer) -> set[Path]:
    return {path for path in (comfy.base / "output" / "dode").rglob("*") if path.is_file()}


def test_every_node_is_there_and_every_input_explained(comfy: ComfyServer) -> None:
    found = {name: info for name, info in comfy.get("/object_info").items() if name.startswith("DODE")}
    assert set(found) == NODES
    for name, info in found.items():
        assert info["display_name"], name
        assert info["description"], name
        assert info["category"].startswith("model/sampling"), name
        for group in ("required", "optional"):
            for label, (_, options) in info["input"].get(group, {}).items():
                assert options.get("tooltip"), f"{name}.{label}"
        assert len(info["output_tooltips"]) == len(info["output"]), name
        assert all(info["output_tooltips"]), name


def test_distilling_shows_saves_and_is_not_done_twice(comfy: ComfyServer) -> None:
    graph = Graph()
    on = demo(graph)
    node = distill(graph, on, save_as="shown/here", samples=12, teacher_substeps=4)
    before = saved(comfy)
    run = comfy.run(graph.prompt)
    assert run.status == "success", run.error

    values = [value for value, _ in run.progress(node)]
    assert values == sorted(values)
    assert run.progress(node)[-1][0] == run.progress(node)[-1][1]
    states = [message["data"] for message in run.messages if message["type"] == "dode.progress"]
    assert all(state["node"] == node for state in states)
    assert run.previews == 0, "the last one would stay on the node"
    assert any((state["picture"] or "").startswith("data:image/jpeg;base64,") for state in states)
    assert next(state["stage"] for state in states) == "teacher"
    assert all(state["seconds_left"] is None or state["seconds_left"] >= 0 for state in states)
    assert [point["number"] for point in states[-1]["curve"]] == [0, 1]
    assert all(point["best"] <= point["start"] for point in states[-1]["curve"])

    (path,) = saved(comfy) - before
    assert path == comfy.base / "output" / "dode" / "shown" / "here.safetensors"
    (entry,) = load_parameters(path).entries
    assert (entry.parameters.method, len(entry.parameters.sigmas)) == ("euler", STEPS + 1)
    assert (entry.model.prediction, entry.model.channels, entry.guidance) == ("edm", 3, CFG)
    assert entry.model.family == embedded_model().family
    assert entry.report is not None
    assert entry.report.error_distilled < entry.report.error_base
    assert str(path) in run.outputs[node]["text"][0]

    again = comfy.run(graph.prompt)
    assert again.status == "success"
    assert node not in again.executed
    assert saved(comfy) - before == {path}


def test_a_name_that_is_taken_gets_a_number(comfy: ComfyServer) -> None:
    graph = Graph()
    node = distill(graph, demo(graph), seed=3)
    for notes in ("first", "second"):
        graph.add("DODESave", parameters=link(node), name="taken", author="me", licence="CC0-1.0", notes=notes)
    before = saved(comfy)
    run = comfy.run(graph.prompt)
    assert run.status == "success", run.error
    assert sorted(path.name for path in saved(comfy) - before) == ["taken.safetensors", "taken_00002.safetensors"]
    files = [load_parameters(comfy.base / "output" / "dode" / f"taken{end}.safetensors") for end in ("", "_00002")]
    assert {file.notes for file in files} == {"first", "second"}
    assert {(file.author, file.licence) for file in files} == {("me", "CC0-1.0")}


@pytest.mark.parametrize("name", ["../../escaped", "/absolute", "a\\b", ".hidden", "x" * 200, "colon:name"])
def test_a_name_that_leads_elsewhere_is_refused(comfy: ComfyServer, name: str) -> None:
    graph = Graph()
    graph.add("DODESave", parameters=link(distill(graph, demo(graph), seed=3)), name=name, author="", licence="", notes="")
    before = saved(comfy)
    run = comfy.run(graph.prompt)
    assert run.status == "error"
    assert "no name for a parameter file" in run.error
    assert saved(comfy) == before


def test_several_prompts_are_fitted_as_such(comfy: ComfyServer) -> None:
    """The host's guider, switched between prompts in lock-step, gives what the core gives with a context per sample; and of
    four prompts one is held out."""
    words = ["fish", "tree", "planet", "face"]
    graph = Graph()
    on = demo(graph, size=32)
    on["positive"] = link(graph.add("DODEPromptSet", clip=on["clip"], prompts="\n# a comment\n".join(words)))
    node = distill(graph, on, samples=12, micro_batch=4, save_as="prompts", seed=11)
    run = comfy.run(graph.prompt)
    assert run.status == "success", run.error
    (entry,) = load_parameters(comfy.base / "output" / "dode" / "prompts.safetensors").entries

    labels = torch.tensor([CLASSES.index(words[i // 3]) for i in range(12)])
    sigmas = np.array(entry.parameters.sigmas)
    noise = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(11))
    expected = fit(
        embedded_model(),
        noise * float(np.sqrt(1 + sigmas[0] ** 2)),
        sigmas,
        teacher=Teacher("euler", substeps=3),
        micro_batch=3,
        extra_args=lambda samples: {"context": context_of(labels[samples]), "guidance": CFG},
        groups=[i // 3 for i in range(12)],
        seed=11,
    )
    assert np.abs(entry.parameters.values).max() > 0.05
    np.testing.assert_allclose(entry.parameters.values, expected.parameters.values, rtol=0, atol=2e-3)
    assert entry.report is not None
    assert entry.report.error_distilled == pytest.approx(expected.report.error_distilled, rel=1e-2)
    assert node in run.outputs


def test_prompts_through_a_node_are_one_fit(comfy: ComfyServer) -> None:
    """A list of conditionings, through a node like those of image to video, is fitted as the prompt set is. With each prompt as
    its own negative, guidance changes nothing."""
    found: dict[str, np.ndarray] = {}
    for label in ("prompts", "through", "own", "without guidance"):
        graph = Graph()
        on = demo(graph)
        prompts = graph.add("DODEPromptSet", clip=on["clip"], prompts="fish\ntree\nplanet\nface")
        on["positive"] = link(prompts)
        if label in ("through", "own"):
            negative = on["negative"] if label == "through" else link(prompts, 1)
            node = graph.add("DodeTestThrough", positive=link(prompts, 1), negative=negative, latent=on["latent"])
            on |= {"positive": link(node), "negative": link(node, 1), "latent": link(node, 2)}
        cfg = 1.0 if label == "without guidance" else CFG
        made = distill(graph, on, samples=8, micro_batch=2, save_as=f"through/{label}", seed=12, cfg=cfg)
        run = comfy.run(graph.prompt)
        assert run.status == "success", run.error
        assert run.outputs[made]["dode"][0]["prompts"] == 4
        (entry,) = load_parameters(comfy.base / "output" / "dode" / "through" / f"{label}.safetensors").entries
        found[label] = entry.parameters.values
    assert np.array_equal(found["prompts"], found["through"])
    np.testing.assert_allclose(found["own"], found["without guidance"], rtol=0, atol=1e-4)
    assert np.abs(found["own"] - found["prompts"]).max() > 1e-3


def test_a_list_of_what_a_fit_has_one_of_is_refused(comfy: ComfyServer) -> None:
    graph = Graph()
    on = demo(graph)
    scales = graph.add("DodeTestNumbers")
    distill(graph, on, cfg=link(scales))
    run = comfy.run(graph.prompt)
    assert run.status == "error"
    assert "cfg came as a list of 2, and a fit has one" in run.error
    assert "also_cfg" in run.error


def test_the_micro_batch_does_not_change_the_result(comfy: ComfyServer) -> None:
    graph = Graph()
    on = demo(graph)
    for size in (1, 8):
        distill(graph, on, micro_batch=size, save_as=f"micro/{size}", seed=21)
    assert comfy.run(graph.prompt).status == "success"
    one, eight = (load_parameters(comfy.base / f"output/dode/micro/{size}.safetensors").entries[0] for size in (1, 8))
    np.testing.assert_allclose(one.parameters.values, eight.parameters.values, rtol=0, atol=1e-4)


def test_every_model_call_finds_its_sigma(comfy: ComfyServer) -> None:
    """Patches look σ up in the host's list, also while the teacher runs between the student's σ."""
    graph = Graph()
    on = watched(graph)
    for solver in ("euler", "heun"):
        distill(graph, on, solver=solver, scheduler="simple", teacher_substeps=5)
    run = comfy.run(graph.prompt)
    assert run.status == "success", run.error


def test_cancel_leaves_nothing_behind(comfy: ComfyServer) -> None:
    graph = Graph()
    node = distill(graph, demo(graph), samples=256, teacher_substeps=50, save_as="cancelled", seed=99)
    before, asked = saved(comfy), []

    def cancel(run: Run) -> None:
        if not asked and len(run.progress(node)) > 3:
            asked.append(True)
            comfy.post("/interrupt", {})

    run = comfy.run(graph.prompt, cancel)
    assert asked
    assert run.status == "interrupted"
    assert saved(comfy) == before

    graph = Graph()
    graph.save_latent(link(ksampler(graph, demo(graph), sampler_name="euler", seed=77)))
    assert comfy.run(graph.prompt).status == "success"


def test_inspect_and_compare(comfy: ComfyServer) -> None:
    graph = Graph()
    on = demo(graph)
    node = distill(graph, on, samples=12, teacher_substeps=4)
    inspect = graph.add("DODEInspect", parameters=link(node))
    inputs = {name: on[name] for name in ("model", "positive", "negative", "latent", "vae")}
    compare = graph.add("DODECompare", parameters=link(node), cfg=CFG, seed=8, reference="heun", reference_substeps=6, **inputs)
    run = comfy.run(graph.prompt)
    assert run.status == "success", run.error
    assert "euler" in run.outputs[inspect]["text"][0]
    assert "λ" in run.outputs[inspect]["text"][0]
    (card,) = run.outputs[inspect]["dode"][0]["entries"]
    errors = {chart["key"]: chart for chart in card["charts"]}["error"]
    assert (card["solver"], card["steps"], errors["labels"]) == ("euler", STEPS, [str(n + 1) for n in range(STEPS)])
    before, after = (series["values"] for series in errors["series"])
    assert after[-1] < before[-1]
    columns = run.outputs[compare]["dode"][0]["columns"]
    assert [column["key"] for column in columns] == ["start", "learned", "reference"]
    for column in columns:
        (picture,) = column["pictures"]
        url = f"/view?filename={picture['filename']}&subfolder={picture['subfolder']}&type={picture['type']}"
        with urllib.request.urlopen(f"http://127.0.0.1:{comfy.port}{url}", timeout=60) as answer:
            assert answer.read(8) == b"\x89PNG\r\n\x1a\n"
    assert columns[1]["error"] < columns[0]["error"]
    undistilled, distilled = (float(line.split(": ")[1].split()[0]) for line in report_lines(run, compare))
    assert 0 < distilled < undistilled


def report_lines(run: Run, node: str) -> list[str]:
    return run.outputs[node]["text"][0].splitlines()[1:3]


def test_load_takes_a_file_and_checks_it(comfy: ComfyServer) -> None:
    graph = Graph()
    on = demo(graph)
    distill(graph, on, save_as="loaded", seed=4)
    assert comfy.run(graph.prompt).status == "success"

    def load(**changes: Any) -> Run:
        graph = Graph()
        on = demo(graph)
        node = graph.add("DODELoad", **{"file": "loaded.safetensors", "steps": 0, "model": on["model"], **changes})
        graph.add("DODEInspect", parameters=link(node))
        return comfy.run(graph.prompt)

    assert load().status == "success"
    assert load(steps=STEPS).status == "success"
    wrong = load(steps=STEPS + 1)
    assert (wrong.status, f"no sampler of {STEPS + 1} steps" in wrong.error) == ("error", True)
    missing = load(file="nowhere.safetensors")
    assert (missing.status, "There is no parameter file" in missing.error) == ("refused", True)
    assert "loaded.safetensors" in comfy.get("/object_info/DODELoad")["DODELoad"]["input"]["required"]["file"][1]["options"]

    other = Graph()
    model = other.add("DodeTestModel", kind="eps")
    node = other.add("DODELoad", file="loaded.safetensors", steps=0, model=link(model))
    other.add("DODEInspect", parameters=link(node))
    refused = comfy.run(other.prompt)
    assert refused.status == "error"
    assert "another kind of model" in refused.error
    assert "'edm'" in refused.error


def test_mode_paper_takes_its_names_and_their_published_choices(comfy: ComfyServer) -> None:
    cases = {
        "paper_best": {"solver": "best of several"},
        "paper_ddim": {"solver": "D-DDIM"},
        "paper_ipndm": {"solver": "D-iPNDM", "prediction": "noise", "order": 2, "guard": False},
        "paper_edm": {"solver": "D-EDM"},
        "paper_edm_heun": {"solver": "D-EDM", "teacher": "heun"},
    }
    graph = Graph()
    on = demo(graph)
    for name, changes in cases.items():
        distill(graph, on, save_as=name, **changes)
    run = comfy.run(graph.prompt)
    assert run.status == "success", run.error
    found = {name: load_parameters(comfy.base / "output" / "dode" / f"{name}.safetensors").entries[0] for name in cases}
    teachers = {name: entry.report.teacher for name, entry in found.items() if entry.report}
    kinds = {name: (entry.parameters.method, entry.parameters.directions) for name, entry in found.items()}
    best = found["paper_best"]
    assert best.report is not None
    assert "search" in best.report.model_evaluations
    assert kinds["paper_best"][0] in [family.method for family in FAMILIES]
    assert kinds["paper_ddim"] == ("euler", "data")  # the demo model's outputs are denoised ones
    assert kinds["paper_ipndm"] == ("ipndm", "noise")
    assert found["paper_ipndm"].parameters.order == teachers["paper_ipndm"].order == 2
    assert found["paper_ipndm"].parameters.values[0, 0]  # the first step too
    assert kinds["paper_edm"] == ("heun", "data")
    assert (teachers["paper_edm"].method, teachers["paper_edm"].substeps) == ("euler", 6)
    assert (teachers["paper_edm_heun"].method, teachers["paper_edm_heun"].substeps) == ("heun", 3)
    assert found["paper_ipndm"].recipe["prediction"] == "noise"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"negative": None}, "needs a negative prompt"),
        ({"negative": None, "cfg": 1.0, "also_cfg": "1, 3", "mode": "balanced"}, "Guidance 3 needs a negative"),
        ({"samples": 2, "positive": "set"}, "3 prompts need at least 3 samples"),
        ({"sigmas": "flipped"}, "strictly descending"),
        ({"solver": "D-DDIM", "order": 3}, "'euler' has no order 3"),
        ({"solver": "best of several", "order": 2}, "best of several is none"),
    ],
)
def test_what_cannot_work_says_so(comfy: ComfyServer, changes: dict[str, Any], message: str) -> None:
    graph = Graph()
    on = demo(graph)
    if changes.get("positive") == "set":
        changes = {**changes, "positive": link(graph.add("DODEPromptSet", clip=on["clip"], prompts="fish\ntree\nface"))}
    if "sigmas" in changes:
        karras = graph.add("KarrasScheduler", steps=4, sigma_max=10.0, sigma_min=0.1, rho=7.0)
        changes = {"sigmas": link(graph.add("FlipSigmas", sigmas=link(karras)))}
    node = distill(graph, on, **changes)
    if "negative" in changes:
        del graph.prompt[node]["inputs"]["negative"]
    run = comfy.run(graph.prompt)
    assert run.status == "error"
    assert message in run.error


def test_without_guidance_no_negative_is_needed(comfy: ComfyServer) -> None:
    graph = Graph()
    node = distill(graph, demo(graph), cfg=1.0)
    del graph.prompt[node]["inputs"]["negative"]
    run = comfy.run(graph.prompt)
    assert run.status == "success", run.error


def test_a_step_cache_is_refused(comfy: ComfyServer) -> None:
    graph = Graph()
    on = demo(graph)
    cache = {"reuse_threshold": 0.2, "start_percent": 0.15, "end_percent": 0.95, "verbose": False}
    on["model"] = link(graph.add("EasyCache", model=on["model"], **cache))
    distill(graph, on)
    run = comfy.run(graph.prompt)
    assert run.status == "error"
    assert "step cache (easycache)" in run.error
