"""Files and checkpoints in a real ComfyUI: what is compared, what is said, what is shared, and that nothing is lost."""

import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dode.files.parameter_file import load_parameters
from tests.comfy.graphs import CFG, demo, distill, ksampler
from tests.comfy.server import ROOT, ComfyServer, Run
from tests.comfy.workflow import Graph, link
from tests.comfyui import comfyui_dir

NOTHING = {"name": "", "seed": 0}
LEVELS = {"steps": 3, "sigma_max": 0.98, "sigma_min": 0.1, "rho": 7.0}


def wan(graph: Graph, checkpoint: str, dtype: str = "default", lora: str = "") -> dict[str, Any]:
    """The smallest Wan out of a checkpoint, through the host's own loaders: links by name."""
    words = graph.add("DodeTestCheckpoint", **NOTHING)
    model = graph.add("UNETLoader", unet_name=checkpoint, weight_dtype=dtype)
    if lora:
        model = graph.add("LoraLoaderModelOnly", model=link(model), lora_name=lora, strength_model=0.7)
    latent = graph.add("EmptyHunyuanLatentVideo", width=16, height=16, length=1, batch_size=1)
    return {"model": link(model), "positive": link(words), "negative": link(words, 1), "latent": link(latent)}


@pytest.fixture(scope="module")
def fitted(comfy: ComfyServer) -> str:
    """A file fitted on the checkpoint a.safetensors; b.safetensors is another one of its kind."""
    graph = Graph()
    for seed, name in enumerate(("a", "b")):
        graph.add("DodeTestCheckpoint", name=f"{name}.safetensors", seed=seed)
    assert comfy.run(graph.prompt).status == "success"
    weights = load_file(comfy.base / "models" / "diffusion_models" / "a.safetensors")
    lora = comfy.base / "models" / "loras"
    lora.mkdir(parents=True, exist_ok=True)
    size = weights["blocks.0.self_attn.q.weight"].shape
    name = "diffusion_model.blocks.0.self_attn.q"
    pair = {f"{name}.lora_A.weight": torch.randn(4, size[1]), f"{name}.lora_B.weight": torch.randn(size[0], 4)}
    save_file(pair, lora / "lora.safetensors")

    graph = Graph()
    on = wan(graph, "a.safetensors")
    levels = graph.add("KarrasScheduler", **LEVELS)
    distill(graph, on, sigmas=link(levels), save_as="wan", seed=2**63 + 5)
    run = comfy.run(graph.prompt)
    assert run.status == "success", run.error
    return "wan.safetensors"


def loaded(comfy: ComfyServer, file: str, checkpoint: str, **changes: Any) -> Run:
    """Load a file with a model; what Load says is shown by the host."""
    graph = Graph()
    on = wan(graph, checkpoint, **changes)
    node = graph.add("DODELoad", file=file, steps=0, model=on["model"], cfg=CFG)
    graph.add("PreviewAny", source=link(node, 3))
    return comfy.run(graph.prompt)


def said(run: Run) -> str:
    assert run.status == "success", run.error
    return "\n".join(str(text) for output in run.outputs.values() for text in output.get("text", ()))


def test_a_file_says_which_checkpoint_it_is_for(comfy: ComfyServer, fitted: str) -> None:
    (entry,) = load_parameters(comfy.base / "output" / "dode" / fitted).entries
    model = entry.model
    assert (model.name, model.prediction, model.channels) == ("a.safetensors", "flow", 16)
    assert model.family.startswith("WAN21")
    assert model.fingerprint.startswith("blocks-")
    assert entry.report is not None
    assert entry.report.seed == 2**63 + 5
    assert entry.recipe["tool"] == "Distill Sampler"
    assert entry.recipe["latent"] == (16, 1, 2, 2)


@pytest.mark.parametrize(
    "changes",
    [{}, {"lora": "lora.safetensors"}, {"dtype": "fp8_e4m3fn"}, {"dtype": "fp8_e4m3fn", "lora": "lora.safetensors"}],
    ids=["plain", "LoRA", "fp8", "both"],
)
def test_the_fingerprint_stays_with_the_checkpoint(comfy: ComfyServer, fitted: str, changes: dict[str, str]) -> None:
    text = said(loaded(comfy, fitted, "a.safetensors", **changes))
    patched = "≈ weight patches: fitted with other weight patches (a LoRA or a merge): with none, this model has some"
    assert ("May fit this model." in text, patched in text) == ("lora" in changes,) * 2
    assert ("Fits this model." in text, "= weight patches: none" in text) == ("lora" not in changes,) * 2
    assert "= fingerprint: the same checkpoint" in text
    assert "= checkpoint name: a.safetensors" in text


def test_a_renamed_checkpoint_keeps_its_parameters(comfy: ComfyServer, fitted: str) -> None:
    folder = comfy.base / "models" / "diffusion_models"
    (folder / "renamed.safetensors").write_bytes((folder / "a.safetensors").read_bytes())
    text = said(loaded(comfy, fitted, "renamed.safetensors"))
    assert "Fits this model." in text
    assert "fitted on 'a.safetensors', renamed to 'renamed.safetensors' since" in text

    other = said(loaded(comfy, fitted, "b.safetensors"))
    assert "May fit this model." in other
    assert "≈ checkpoint name: fitted on 'a.safetensors', this is 'b.safetensors'" in other
    assert "≈ fingerprint: fitted on other weights" in other
    said(loaded(comfy, fitted, "b.safetensors", lora="lora.safetensors"))
    lines = [line for line in comfy.log().splitlines() if "wan.safetensors: fitted on" in line]
    assert len(lines) == len({line.partition("D-ODE")[2] for line in lines}) == 2, "each difference is said once"


def test_the_page_can_ask_what_fits_a_checkpoint_and_why_not(comfy: ComfyServer, fitted: str) -> None:
    plain = {file["name"]: file for file in comfy.get("/dode/library")["files"]}
    assert plain[fitted]["fits"] is None
    (comfy.base / "output" / "dode" / "broken.safetensors").write_bytes(b"\0" * 20)
    answers = {name: comfy.get(f"/dode/library?model={name}.safetensors") for name in ("a", "b", "nowhere")}
    found = {name: {file["name"]: file for file in answer["files"]} for name, answer in answers.items()}
    assert answers["a"]["model"]["channels"] == 16
    assert (found["a"][fitted]["why"], found["a"][fitted]["fits"]) == ([], "yes")
    assert (found["b"][fitted]["fits"], len(found["b"][fitted]["why"])) == ("perhaps", 2)
    example = found["a"]["demo_model_6_steps.safetensors"]
    assert example["fits"] == "no"
    assert any(
        "architecture 'dode.demo.UNet', this model has 'WAN21" in why for why in [each["words"] for each in example["why"]]
    )
    assert found["a"]["broken.safetensors"]["error"].startswith("broken.safetensors: not a safetensors file")
    assert answers["nowhere"]["model"]["family"] == ""
    of_demo = {file["name"]: file["fits"] for file in comfy.get("/dode/library?model=embedded")["files"]}
    assert of_demo["demo_model_6_steps.safetensors"] == "yes"
    assert of_demo[fitted] == "no"
    (comfy.base / "output" / "dode" / "broken.safetensors").unlink()
    assert comfy.get("/dode/library?model=../../../etc/passwd")["model"]["fingerprint"] == ""
    with pytest.raises(urllib.error.HTTPError, match="405"):
        comfy.post("/dode/library", {})


def test_where_nothing_fits_load_says_what_does(comfy: ComfyServer, fitted: str) -> None:
    run = loaded(comfy, "demo_model_6_steps.safetensors", "a.safetensors")
    assert run.status == "error"
    assert "fitted for the architecture 'dode.demo.UNet', this model has 'WAN21" in run.error
    assert f"These fit: {fitted}" in run.error


def test_the_recipe_is_enough_to_do_the_fit_again(comfy: ComfyServer) -> None:
    graph = Graph()
    distill(graph, demo(graph), save_as="first", seed=7, samples=12, mode="multi-tap", solver="heun", teacher_substeps=4)
    assert comfy.run(graph.prompt).status == "success"
    (first,) = load_parameters(comfy.base / "output" / "dode" / "first.safetensors").entries
    inputs = comfy.get("/object_info/DODEDistillSampler")["DODEDistillSampler"]["input_order"]
    known = {
        name: value for name, value in first.recipe.items() if name in {*inputs["required"], *inputs["optional"]} - {"latent"}
    }
    graph = Graph()
    node = distill(graph, demo(graph, size=first.recipe["latent"][1]), save_as="second")  # type: ignore[index]
    changed = graph.prompt[node]["inputs"]
    assert changed["seed"] != known["seed"]
    changed.update(known)
    assert comfy.run(graph.prompt).status == "success"
    (second,) = load_parameters(comfy.base / "output" / "dode" / "second.safetensors").entries
    np.testing.assert_array_equal(first.parameters.values, second.parameters.values)
    assert (first.report, first.recipe) == (second.report, second.recipe)


def shared(graph: Graph, name: str, **changes: Any) -> str:
    node = distill(graph, demo(graph, "a fish in the rain"), seed=3, save_as="")
    words = {"author": "me", "licence": "CC0-1.0", "notes": ""}
    return graph.add("DODESave", parameters=link(node), name=name, **words, **changes)


def test_prompts_are_shared_only_if_one_says_so(comfy: ComfyServer) -> None:
    graph = Graph()
    shared(graph, "silent")
    shared(graph, "open", share_workflow=True)
    run = comfy.run(graph.prompt)
    assert run.status == "success", run.error
    silent, opened = (comfy.base / "output" / "dode" / f"{name}.safetensors" for name in ("silent", "open"))
    assert b"in the rain" not in silent.read_bytes()
    assert load_parameters(silent).workflow == {}
    assert "a fish in the rain" in load_parameters(opened).workflow["prompt"]


def test_the_hosts_switch_against_metadata_counts(tmp_path: Path) -> None:
    server = ComfyServer(comfyui_dir(), tmp_path, [ROOT], arguments=["--disable-metadata"])
    try:
        graph = Graph()
        node = shared(graph, "open", share_workflow=True)
        run = server.run(graph.prompt)
        assert run.status == "success", run.error
        assert "--disable-metadata" in run.outputs[node]["text"][0]
        file = tmp_path / "output" / "dode" / "open.safetensors"
        assert load_parameters(file).author == "me"
        assert b"in the rain" not in file.read_bytes()
    finally:
        server.close()


def test_a_fit_that_cannot_be_saved_where_it_should_is_saved_elsewhere(comfy: ComfyServer) -> None:
    (comfy.base / "output" / "dode").mkdir(parents=True, exist_ok=True)
    (comfy.base / "output" / "dode" / "refusing").write_text("")
    graph = Graph()
    node = distill(graph, demo(graph), save_as="refusing/mine", seed=61)
    run = comfy.run(graph.prompt)
    assert run.status == "success", run.error
    (comfy.base / "output" / "dode" / "refusing").unlink()
    path = comfy.base / "models" / "dode" / "refusing" / "mine.safetensors"
    assert len(load_parameters(path).entries) == 1
    assert "could not be written" in run.outputs[node]["text"][0]
    assert f"Saved as {path} instead" in run.outputs[node]["text"][0]


def test_a_cancelled_fit_keeps_the_scales_that_were_done(comfy: ComfyServer) -> None:
    graph = Graph()
    quick = {"mode": "balanced", "solver": "dpmpp_2m", "teacher": "dpmpp_3m", "samples": 8, "micro_batch": 8, "steps": 3}
    distill(graph, demo(graph), **quick, cfg=3.0, also_cfg="5, 7", save_as="half", seed=63)
    path, asked = comfy.base / "output" / "dode" / "half.safetensors", []

    def cancel(run: Run) -> None:
        if not asked and path.exists():
            asked.append(True)
            comfy.post("/interrupt", {})

    run = comfy.run(graph.prompt, cancel)
    assert (run.status, asked) == ("interrupted", [True])
    assert [entry.guidance for entry in load_parameters(path).entries][:1] == [3.0]


def test_plain_ksampler_finds_them_under_the_new_name(comfy: ComfyServer, fitted: str) -> None:
    folder = comfy.base / "models" / "diffusion_models"
    (folder / "moved.safetensors").write_bytes((folder / "a.safetensors").read_bytes())
    graph = Graph()
    on = wan(graph, "moved.safetensors")
    graph.save_latent(link(ksampler(graph, on, steps=3, scheduler="dode")))
    run = comfy.run(graph.prompt)
    assert run.status == "success", run.error
    assert f"KSampler uses {fitted}" in comfy.log()
