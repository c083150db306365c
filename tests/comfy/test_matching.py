"""Which file `dode` takes in a real ComfyUI, on which noise levels, and what is said: the situations of docs/matching.md."""

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dode import Entry
from dode.demo.model import embedded_model
from dode.files.parameter_file import load_parameters, save_parameters
from tests.comfy.graphs import demo, distill, ksampler, sampler_custom
from tests.comfy.server import ComfyServer, Run
from tests.comfy.test_routes import EXAMPLE, send
from tests.comfy.workflow import Graph, link

STEPS, CFG = 8, 3.3
CLOSE = 5e-5


@pytest.fixture(scope="module")
def fitted(comfy: ComfyServer) -> Entry:
    """Parameters of a real fit, to make files from; no file of its own stays."""
    graph = Graph()
    distill(graph, demo(graph), steps=STEPS, cfg=CFG, seed=71, save_as="matching/fitted")
    run = comfy.run(graph.prompt)
    assert run.status == "success", run.error
    path = comfy.base / "output" / "dode" / "matching" / "fitted.safetensors"
    (entry,) = load_parameters(path).entries
    assert (entry.model.patches, entry.model.fingerprint[:7]) == ("none", "blocks-")
    path.unlink()
    return entry


class Library:
    """Files in output/dode for one test, each newer than the one before."""

    def __init__(self, comfy: ComfyServer):
        self.folder, self.made = comfy.base / "output" / "dode", list[Path]()

    def add(self, name: str, *entries: Entry) -> str:
        path = save_parameters(self.folder / f"{name}.safetensors", entries)
        self.made.append(path)
        changed = time.time() - 1000 + len(self.made)
        os.utime(path, (changed, changed))
        return path.name


def forget(comfy: ComfyServer) -> None:
    """The host keeps no results, as with --cache-none: the same graph is run again, on the files that are there then."""
    comfy.post("/free", {"free_memory": True, "unload_models": True})
    while comfy.get("/dode_test/waiting")["waiting"]:
        time.sleep(0.05)


@pytest.fixture
def library(comfy: ComfyServer) -> Iterator[Library]:
    forget(comfy)
    found = Library(comfy)
    folders = (found.folder, comfy.base / "models" / "dode")
    others = [path for folder in folders for path in folder.rglob("*.safetensors")]  # of tests before, on the same server
    for path in others:
        path.rename(path.with_suffix(".aside"))
    yield found
    for path in found.made:
        path.unlink(missing_ok=True)
    for path in others:
        path.with_suffix(".aside").rename(path)


def like(entry: Entry, scale: float = 1.0, cfg: float = CFG, **model: Any) -> Entry:
    """An entry on other noise levels, of another guidance or another model."""
    levels = tuple(sigma * scale ** (1 - i / STEPS) for i, sigma in enumerate(entry.parameters.sigmas))
    parameters = replace(entry.parameters, sigmas=levels, values=entry.parameters.values + 0.05 * _allowed(entry))
    return replace(entry, parameters=parameters, guidance=cfg, model=replace(entry.model, **model), recipe={})


def _allowed(entry: Entry) -> Any:
    rows = np.arange(len(entry.parameters.values))[:, None]
    return np.where(rows > 0, 1.0, 0.0)


def auto(graph: Graph, on: dict[str, Any], **changes: Any) -> str:
    inputs = {"steps": STEPS, "cfg": CFG, "scheduler": "dode", **changes}
    return graph.save_latent(link(ksampler(graph, on, **inputs)))


def by_hand(graph: Graph, on: dict[str, Any], file: str, cfg: float = CFG) -> str:
    loaded = graph.add("DODELoad", file=file, steps=STEPS, cfg=cfg)
    return graph.save_latent(link(sampler_custom(graph, on, link(loaded, 1), link(loaded, 2), cfg=cfg)))


def ran(comfy: ComfyServer, graph: Graph) -> Run:
    run = comfy.run(graph.prompt)
    assert run.status == "success", run.error
    return run


def same(comfy: ComfyServer, run: Run, one: str, other: str) -> None:
    torch.testing.assert_close(comfy.latent(run, one), comfy.latent(run, other), rtol=0, atol=CLOSE)


OTHER: dict[str, Any] = {"name": "other.safetensors", "fingerprint": "blocks-other"}


def test_the_older_file_of_this_checkpoint_and_the_newer_of_another(
    comfy: ComfyServer, fitted: Entry, library: Library
) -> None:
    mine = library.add("mine", like(fitted))
    library.add("others", like(fitted, 0.8, **OTHER))
    graph = Graph()
    on = demo(graph)
    ours, hand, stock = auto(graph, on), by_hand(graph, on, mine), auto(graph, on, sampler_name="euler")
    run = ran(comfy, graph)
    same(comfy, run, ours, hand)
    assert not torch.allclose(comfy.latent(run, ours), comfy.latent(run, stock), atol=1e-3)
    assert f"KSampler uses {mine}" in comfy.log()


def test_a_file_for_any_model_is_taken_last_and_only_where_the_setting_says_so(
    comfy: ComfyServer, fitted: Entry, library: Library
) -> None:
    for_any = replace(like(fitted, 0.7, name="", fingerprint="", family="", patches=""), recipe={"models": ["one", "two"]})
    name = library.add("for_any", for_any)
    graph = Graph()
    on = demo(graph)
    ours, hand, stock = auto(graph, on), by_hand(graph, on, name), auto(graph, on, sampler_name="dpmpp_2m", scheduler="karras")
    run = ran(comfy, graph)
    same(comfy, run, ours, stock)
    assert f"{name}: was fitted on several other models, and the setting for such files is off" in comfy.log()
    try:
        comfy.post("/settings/dode.generic", True)
        forget(comfy)
        run = ran(comfy, graph)
        same(comfy, run, ours, hand)
        assert f"KSampler uses {name}" in comfy.log()
        assert f"{name}: fitted on several other models together (one, two). The parameters may fit less well." in comfy.log()
        others = library.add("of_another", like(fitted, 0.9, **OTHER))
        os.utime(library.made[-1], (1, 1))
        forget(comfy)
        ran(comfy, graph)
        assert f"KSampler uses {others}" in comfy.log()
    finally:
        comfy.post("/settings/dode.generic", False)


def test_levels_of_another_kind_of_model_are_not_sampled_on(comfy: ComfyServer, fitted: Entry, library: Library) -> None:
    library.add("kind", like(fitted, 0.7, family="Another"))
    graph = Graph()
    on = demo(graph)
    ours, stock = auto(graph, on), auto(graph, on, sampler_name="dpmpp_2m", scheduler="karras")
    part = auto(graph, {**on, "latent": link(ksampler(graph, on, sampler_name="euler", seed=8))}, steps=4, denoise=0.5)
    run = ran(comfy, graph)
    same(comfy, run, ours, stock)
    assert torch.isfinite(comfy.latent(run, part)).all()
    assert "kind.safetensors: is for another kind of model" in comfy.log()

    mine = library.add("own", like(fitted))
    os.utime(library.made[-1], (1, 1))
    graph = Graph()
    on = demo(graph)
    ours, hand = auto(graph, on, seed=6), by_hand(graph, on, mine)
    graph.prompt[str(int(hand) - 1)]["inputs"]["noise_seed"] = 6
    same(comfy, ran(comfy, graph), ours, hand)


def test_a_file_for_each_guidance(comfy: ComfyServer, fitted: Entry, library: Library) -> None:
    two = library.add("two", like(fitted, cfg=2.1))
    library.add("four", like(fitted, 0.75, cfg=4.1))
    graph = Graph()
    on = demo(graph)
    ours, hand = auto(graph, on, cfg=2.1), by_hand(graph, on, two, 2.1)
    same(comfy, ran(comfy, graph), ours, hand)


def advanced(graph: Graph, on: dict[str, Any], start: int, end: int, noise: str, cfg: float, **changes: Any) -> str:
    inputs = {"model": on["model"], "positive": on["positive"], "negative": on["negative"], "latent_image": on["latent"]}
    inputs |= {"add_noise": noise, "noise_seed": 5, "steps": STEPS, "cfg": cfg, "sampler_name": "dode", "scheduler": "dode"}
    inputs |= {"start_at_step": start, "end_at_step": end, "return_with_leftover_noise": "enable"}
    return graph.add("KSamplerAdvanced", **{**inputs, **changes})


def test_parts_at_the_second_scale_of_one_file(comfy: ComfyServer, fitted: Entry, library: Library) -> None:
    file = library.add("scales", like(fitted, cfg=2.2), like(fitted, 0.7, cfg=4.4))
    graph = Graph()
    on = demo(graph)
    loaded = graph.add("DODELoad", file=file, steps=STEPS, cfg=4.4)
    sampler = link(loaded, 1)

    first = advanced(graph, on, 0, 3, "enable", 4.4)
    second = graph.save_latent(link(advanced(graph, {**on, "latent": link(first)}, 3, 10000, "disable", 4.4)))
    halves = graph.add("SplitSigmas", sigmas=link(loaded, 2), step=3)
    third = sampler_custom(graph, on, sampler, link(halves), cfg=4.4)
    rest = {**on, "latent": link(third)}
    fourth = graph.save_latent(link(sampler_custom(graph, rest, sampler, link(halves, 1), cfg=4.4, add_noise=False)))

    start = {**on, "latent": link(ksampler(graph, on, sampler_name="euler", seed=8))}
    ours = auto(graph, start, steps=4, cfg=4.4, denoise=0.5)  # the last 4 of 8
    tail = graph.add("SplitSigmas", sigmas=link(loaded, 2), step=4)
    hand = graph.save_latent(link(sampler_custom(graph, start, sampler, link(tail, 1), cfg=4.4)))

    # another sampler goes on from where the host expects it
    mixed = graph.save_latent(
        link(advanced(graph, {**on, "latent": link(first)}, 3, 10000, "disable", 4.4, sampler_name="euler"))
    )
    run = ran(comfy, graph)
    same(comfy, run, second, fourth)
    same(comfy, run, ours, hand)
    apart = (comfy.latent(run, mixed) - comfy.latent(run, second)).abs().mean()
    assert float(apart) < 0.1 * float(comfy.latent(run, second).abs().mean())
    assert f"KSampler uses {file}" in comfy.log()


def a_lora(comfy: ComfyServer, name: str, seed: int) -> str:
    weight = embedded_model().network.mix_embedding.weight
    generator = torch.Generator().manual_seed(seed)
    down, up = torch.randn(2, weight.shape[1], generator=generator), 0.3 * torch.randn(weight.shape[0], 2, generator=generator)
    folder = comfy.base / "models" / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    key = "diffusion_model.mix_embedding"
    save_file({f"{key}.lora_up.weight": up, f"{key}.lora_down.weight": down}, folder / name)
    return name


def with_lora(graph: Graph, on: dict[str, Any], name: str, strength: float = 1.0, kind: str = "") -> dict[str, Any]:
    loader = graph.add(f"LoraLoader{kind}ModelOnly", model=on["model"], lora_name=name, strength_model=strength)
    return {**on, "model": link(loader)}


def test_weight_patches_are_part_of_the_model(comfy: ComfyServer, library: Library) -> None:
    names = [a_lora(comfy, f"matching_{number}.safetensors", number) for number in (1, 2)]
    graph = Graph()
    on = demo(graph)
    places = {"plain": on, "one": with_lora(graph, on, names[0]), "half": with_lora(graph, on, names[0], 0.5)}
    places["two"] = with_lora(graph, on, names[1])
    for name, place in places.items():
        distill(graph, place, steps=STEPS, cfg=CFG, seed=72, save_as=f"matching/{name}")
    ran(comfy, graph)
    library.made += [library.folder / "matching" / f"{name}.safetensors" for name in places]
    texts = {load_parameters(path).entries[0].model.patches for path in library.made}
    assert len(texts) == 4
    assert "none" in texts

    graph = Graph()
    on = demo(graph)
    both = with_lora(graph, with_lora(graph, on, names[1]), names[0])
    places = {"plain": on, "one": with_lora(graph, on, names[0]), "half": with_lora(graph, on, names[0], 0.5)}
    bypass = with_lora(graph, on, names[0], kind="Bypass")
    pairs = {
        name: (auto(graph, place), by_hand(graph, place, f"matching/{name}.safetensors")) for name, place in places.items()
    }
    pairs["one, by the bypass loader"] = auto(graph, bypass), by_hand(graph, bypass, "matching/one.safetensors")
    auto(graph, both)
    merged = graph.add("ModelMergeSimple", model1=on["model"], model2=both["model"], ratio=0.5)
    shown = {}
    for name, model in (("same", places["one"]["model"]), ("LoRA", both["model"]), ("merge", link(merged))):
        loaded = graph.add("DODELoad", file="matching/one.safetensors", steps=0, model=model)
        shown[name] = graph.add("PreviewAny", source=link(loaded, 3))
    run = ran(comfy, graph)
    for ours, hand in pairs.values():
        same(comfy, run, ours, hand)
    assert comfy.log().count("other weight patches") > 0
    said = {name: run.outputs[node]["text"][0] for name, node in shown.items()}
    assert "Fits this model." in said["same"]
    for name in ("LoRA", "merge"):
        assert "fitted with other weight patches (a LoRA or a merge)" in said[name]
        assert "Fits this model." not in said[name]


def test_no_name_changes_its_meaning(comfy: ComfyServer, fitted: Entry, library: Library) -> None:
    theirs = comfy.base / "models" / "dode" / "shadow.safetensors"
    save_parameters(theirs, [like(fitted, 0.9)])
    library.made.append(theirs)
    graph = Graph()
    distill(graph, demo(graph), seed=73, save_as="shadow")
    ran(comfy, graph)
    library.made.append(library.folder / "shadow_00002.safetensors")
    assert library.made[-1].exists()
    assert not (library.folder / "shadow.safetensors").exists()

    library.add("known", like(fitted))
    status, answer = send(comfy, "known.safetensors", EXAMPLE.read_bytes())
    assert (status, answer["file"]) == (200, "known_00002.safetensors")
    library.made.append(comfy.base / "models" / "dode" / answer["file"])

    hidden = library.add("shadow", like(fitted, 0.8))
    graph = Graph()
    on = demo(graph)
    one, other = (by_hand(graph, on, file) for file in (hidden, f"{hidden} [output]"))
    run = ran(comfy, graph)
    assert not torch.allclose(comfy.latent(run, one), comfy.latent(run, other), atol=1e-4)
    assert "shadow.safetensors [output]" in comfy.log()


@pytest.mark.parametrize("name", ["CON", "mine/nul.x", "a./b", "a /b", "a//b", "a\\b"])
def test_names_that_other_systems_do_not_keep_are_refused(comfy: ComfyServer, name: str) -> None:
    graph = Graph()
    distill(graph, demo(graph), save_as=name)
    run = comfy.run(graph.prompt)
    assert run.status == "error"
    assert "is no name for a parameter file" in run.error


def test_where_the_choice_cannot_run_it_is_the_plain_solver(comfy: ComfyServer, fitted: Entry, library: Library) -> None:
    channel = replace(fitted.parameters, guidance=np.full((STEPS, 1), 0.1))
    library.add("channel", replace(fitted, parameters=channel))
    graph = Graph()
    on = demo(graph)
    found = {}
    for sampler in ("dode", "dpmpp_2m"):
        parts = {"noise": link(graph.add("RandomNoise", noise_seed=5)), "latent_image": on["latent"]}
        parts["sampler"] = link(graph.add("KSamplerSelect", sampler_name=sampler))
        parts["sigmas"] = link(graph.add("BasicScheduler", model=on["model"], scheduler="dode", steps=STEPS, denoise=1.0))
        words = {"positive": on["positive"], "negative": on["negative"], "empty_conditioning": on["negative"]}
        guider = graph.add("PerpNegGuider", model=on["model"], **words, cfg=CFG, neg_scale=0.5)
        found[sampler] = graph.save_latent(link(graph.add("SamplerCustomAdvanced", guider=link(guider), **parts)))
    override = graph.add("CFGOverride", model=on["model"], cfg=1.0, start_percent=0.4, end_percent=1.0)
    part = auto(graph, {**on, "model": link(override)})
    run = ran(comfy, graph)
    same(comfy, run, found["dode"], found["dpmpp_2m"])
    assert torch.isfinite(comfy.latent(run, part)).all()
    assert "channel.safetensors: weighs both outputs of guidance" in comfy.log()


def test_the_same_fit_is_used_again(comfy: ComfyServer, library: Library) -> None:
    def fit(**changes: Any) -> str:
        graph = Graph()
        node = distill(graph, demo(graph, changes.pop("text", "a fish")), **{"seed": 74, "save_as": "again", **changes})
        forget(comfy)
        run = ran(comfy, graph)
        assert node in run.executed
        return run.outputs[node]["text"][0]

    first, second = fit(), fit()
    library.made += sorted(library.folder.glob("again*"))
    assert [path.name for path in library.made] == ["again.safetensors"]
    assert "Saved as" in first
    assert "Used again: again.safetensors" in second
    for number, changes in enumerate(({"again": True}, {"text": "a tree"}, {"cfg": 2.5}, {"seed": 75}, {"steps": 5}), 2):
        assert f"again_{number:05}.safetensors" in fit(**changes)
    assert "other_again.safetensors" in fit(save_as="other_again")
    library.made += [*library.folder.glob("again_*"), library.folder / "other_again.safetensors"]


def test_a_changed_choice_is_said(comfy: ComfyServer, fitted: Entry, library: Library) -> None:
    def sample(seed: int, **changes: Any) -> str:
        before = len(comfy.log())
        graph = Graph()
        auto(graph, demo(graph), seed=seed, **changes)
        ran(comfy, graph)
        return comfy.log()[before:]

    file = library.add("said", like(fitted))
    assert f"KSampler uses {file}" in sample(1)
    assert "KSampler uses" not in sample(2)
    library.made[0].unlink()
    assert "no saved parameters fit" in sample(3)
    library.add("said", like(fitted))
    assert f"KSampler uses {file}" in sample(4)
    said = sample(5, steps=STEPS, denoise=0.5)
    assert "8 steps at denoise 0.5 ask for 16; 4 steps with scheduler dode would use said.safetensors" in said
