"""What people put around a sampler: each works, checked against ComfyUI's own sampler in the same place, or says why not."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.comfy.graphs import demo, ksampler, model_of, sampler_custom
from tests.comfy.server import ComfyServer, Run
from tests.comfy.situations import (
    CACHE,
    CFG,
    GUIDERS,
    HIDDEN,
    LAYER,
    MODES,
    NO_CHANNEL,
    NO_END,
    SAYS,
    STEPS,
    WINDOWS,
    WORKS,
    Links,
    distill,
    guided,
    patch,
)
from tests.comfy.workflow import Graph, link


@pytest.fixture(scope="module", autouse=True)
def small_lora(comfy: ComfyServer) -> None:
    folder = comfy.base / "models" / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(3)
    up, down = torch.randn(128, 2, generator=generator), 0.2 * torch.randn(2, 32, generator=generator)
    save_file({f"{LAYER}.lora_up.weight": up, f"{LAYER}.lora_down.weight": down}, folder / "small.safetensors")


def same_as_stock(comfy: ComfyServer, run: Run, nodes: dict[str, str], bound: float = 1e-4, learned: bool = True) -> None:
    """λ = 0 is the host's own sampler in this situation, and with what was learned it is finite and another."""
    distilled, base, stock = (comfy.latent(run, nodes[name]) for name in ("distilled", "base", "stock"))
    assert torch.isfinite(distilled).all()
    assert float((base - stock).abs().max() / stock.abs().max()) < bound
    assert not (learned and torch.equal(distilled, base))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", WORKS)
def test_it_works(comfy: ComfyServer, name: str, mode: str) -> None:
    graph = Graph()
    on = WORKS[name](graph, model_of(graph, "SD1.5", "fp32"))
    made = distill(graph, on, **MODES[mode])
    zero = graph.add("DODESampler", parameters=link(made), strength=0.0)
    euler = graph.add("KSamplerSelect", sampler_name="euler")
    samplers = {"distilled": link(made, 1), "base": link(zero), "stock": link(euler)}
    saved = {
        label: graph.save_latent(link(sampler_custom(graph, on, sampler, link(made, 2), cfg=CFG)))
        for label, sampler in samplers.items()
    }
    run = comfy.run(graph.prompt)
    assert run.status == "success", run.error
    same_as_stock(comfy, run, saved)


@pytest.mark.parametrize("mode", MODES)
def test_context_windows_on_video(comfy: ComfyServer, mode: str) -> None:
    graph = Graph()
    on = patch("ContextWindowsManual", **WINDOWS)(graph, model_of(graph, "Wan 2.1, video", "fp32"))
    changes: Links = {"samples": 8, "scheduler": "simple"}  # two of them held out, and each has its own windows
    if mode == "balanced":
        changes = {**MODES[mode], "sigmas": link(graph.add("ManualSigmas", sigmas="0.9, 0.5, 0"))}
    made = distill(graph, on, **changes)
    zero = graph.add("DODESampler", parameters=link(made), strength=0.0)
    euler = graph.add("KSamplerSelect", sampler_name="euler")
    saved = {
        label: graph.save_latent(link(sampler_custom(graph, on, sampler, link(made, 2), cfg=CFG)))
        for label, sampler in (("distilled", link(made, 1)), ("base", link(zero)), ("stock", link(euler)))
    }
    run = comfy.run(graph.prompt)
    assert run.status == "success", run.error
    same_as_stock(comfy, run, saved, learned=mode == "paper")  # of so few samples the one that judges may keep the base


@pytest.fixture(scope="module")
def two_files(comfy: ComfyServer) -> tuple[str, str]:
    """Parameters without the guidance channel, and with it."""
    graph = Graph()
    distill(graph, model_of(graph, "SD1.5", "fp32"), save_as="guiders/plain")
    quick = {"mode": "balanced", "solver": "dpmpp_2m", "teacher": "euler", "steps": 3, "samples": 8, "micro_batch": 8}
    channel = distill(graph, model_of(graph, "SD2, v", "fp32"), **quick, save_as="guiders/channel")
    shown = graph.add("DODEInspect", parameters=link(channel))
    run = comfy.run(graph.prompt)
    assert run.status == "success", run.error
    assert "γ" in str(run.outputs[shown])
    return "guiders/plain.safetensors", "guiders/channel.safetensors"


@pytest.mark.parametrize("inside", [False, True])
def test_a_sampler_that_another_pack_has_wrapped(comfy: ComfyServer, two_files: tuple[str, str], inside: bool) -> None:
    """It gives what it gives by itself; where it needs to know the guider and cannot, it says so."""
    graph = Graph()
    on = model_of(graph, "SD1.5", "fp32")
    made = graph.add("DODELoad", file=two_files[0], steps=0)
    wrapped = graph.add("DodeTestWrapSampler", sampler=link(made, 1), inside=inside)
    known = graph.add("KSamplerSelect", sampler_name="dode")
    both = graph.add("DodeTestWrapSampler", sampler=link(known), inside=inside)
    nodes = [
        graph.save_latent(link(sampler_custom(graph, on, sampler, link(made, 2), cfg=CFG)))
        for sampler in (link(made, 1), link(wrapped), link(both))
    ]
    run = comfy.run(graph.prompt)
    assert run.status == "success", run.error
    alone, ours, dode = (comfy.latent(run, node) for node in nodes)
    assert torch.equal(alone, ours)
    assert torch.isfinite(dode).all()

    graph = Graph()
    on = model_of(graph, "SD2, v", "fp32")
    made = graph.add("DODELoad", file=two_files[1], steps=0)
    wrapped = graph.add("DodeTestWrapSampler", sampler=link(made, 1), inside=inside)
    nodes = [
        graph.save_latent(link(sampler_custom(graph, on, sampler, link(made, 2), cfg=CFG)))
        for sampler in (link(made, 1), link(wrapped))
    ]
    run = comfy.run(graph.prompt)
    if inside:
        assert run.status == "success", run.error
        assert torch.equal(*(comfy.latent(run, node) for node in nodes))
    else:
        assert HIDDEN in run.error


@pytest.mark.parametrize("name", GUIDERS)
def test_other_guiders(comfy: ComfyServer, two_files: tuple[str, str], name: str) -> None:
    """Parameters without the guidance channel work with each; those with it are refused where there is no such channel."""
    graph = Graph()
    on = model_of(graph, "SD1.5", "fp32")
    made = graph.add("DODELoad", file=two_files[0], steps=0)
    zero = graph.add("DODESampler", parameters=link(made), strength=0.0)
    euler = graph.add("KSamplerSelect", sampler_name="euler")
    samplers = {"distilled": link(made, 1), "base": link(zero), "stock": link(euler)}
    saved = {label: guided(graph, on, name, sampler, link(made, 2)) for label, sampler in samplers.items()}
    run = comfy.run(graph.prompt)
    assert run.status == "success", run.error
    same_as_stock(comfy, run, saved)

    graph = Graph()
    on = model_of(graph, "SD2, v", "fp32")
    made = graph.add("DODELoad", file=two_files[1], steps=0)
    guided(graph, on, name, link(made, 1), link(made, 2))
    run = comfy.run(graph.prompt)
    assert run.status == "error"
    assert NO_CHANNEL in run.error


def steps_of(
    comfy: ComfyServer, build: Callable[[Graph, Links, str], list[str]], name: str, mode: str = "paper"
) -> list[torch.Tensor]:
    """Distill, save, and build on the loaded file."""
    graph = Graph()
    made = distill(graph, model_of(graph, "SD1.5", "fp32"), save_as=name, seed=7, cfg=3.0, **MODES[mode])
    assert comfy.run(graph.prompt).status == "success", made
    graph = Graph()
    on = model_of(graph, "SD1.5", "fp32")
    loaded = graph.add("DODELoad", file=f"{name}.safetensors", steps=0)
    nodes = [graph.save_latent(link(node)) for node in build(graph, on, loaded)]
    run = comfy.run(graph.prompt)
    assert run.status == "success", run.error
    return [comfy.latent(run, node) for node in nodes]


def advanced(graph: Graph, on: Links, start: int, end: int, noise: str, leftover: str, **changes: Any) -> str:
    inputs = {"model": on["model"], "positive": on["positive"], "negative": on["negative"], "latent_image": on["latent"]}
    inputs |= {"add_noise": noise, "noise_seed": 5, "steps": STEPS, "cfg": 3.0, "sampler_name": "dode", "scheduler": "karras"}
    inputs |= {"start_at_step": start, "end_at_step": end, "return_with_leftover_noise": leftover}
    return graph.add("KSamplerAdvanced", **{**inputs, **changes})


@pytest.mark.parametrize("mode", MODES)
def test_ksampler_advanced_in_two_parts(comfy: ComfyServer, mode: str) -> None:
    """With leftover noise, and by hand with SplitSigmas: the same latent."""
    grid = {"scheduler": "karras" if mode == "paper" else "dode"}

    def build(graph: Graph, on: Links, loaded: str) -> list[str]:
        first = advanced(graph, on, 0, 2, "enable", "enable", **grid)
        second = advanced(graph, {**on, "latent": link(first)}, 2, 10000, "disable", "disable", **grid)
        halves = graph.add("SplitSigmas", sigmas=link(loaded, 2), step=2)
        third = sampler_custom(graph, on, link(loaded, 1), link(halves), cfg=3.0)
        rest = {**on, "latent": link(third)}
        return [second, sampler_custom(graph, rest, link(loaded, 1), link(halves, 1), cfg=3.0, add_noise=False)]

    one, two = steps_of(comfy, build, f"situations/advanced_{mode}", mode)
    assert torch.equal(one, two)
    assert f"KSampler uses situations/advanced_{mode}.safetensors" in comfy.log()


@pytest.mark.parametrize("mode", MODES)
def test_denoise_below_one_takes_the_end_of_the_grid(comfy: ComfyServer, mode: str) -> None:
    def build(graph: Graph, on: Links, loaded: str) -> list[str]:
        start = ksampler(graph, on, sampler_name="euler", seed=8)
        on = {**on, "latent": link(start)}
        ends = graph.add("SplitSigmas", sigmas=link(loaded, 2), step=2)
        scheduler = "karras" if mode == "paper" else "dode"
        return [
            ksampler(graph, on, cfg=3.0, steps=2, denoise=0.5, scheduler=scheduler),
            sampler_custom(graph, on, link(loaded, 1), link(ends, 1), cfg=3.0),
        ]

    one, two = steps_of(comfy, build, f"situations/denoise_{mode}", mode)
    assert torch.equal(one, two)


@pytest.mark.parametrize("mode", MODES)
def test_a_forced_end_falls_back_and_says_so(comfy: ComfyServer, mode: str) -> None:
    """KSamplerAdvanced without leftover noise sets the last σ to 0: no part of the grid any more."""

    def build(graph: Graph, on: Links, _: str) -> list[str]:
        grid = {"scheduler": "karras" if mode == "paper" else "dode"}
        return [advanced(graph, on, 0, 2, "enable", "disable", sampler_name=name, **grid) for name in ("dode", "dpmpp_2m")]

    ours, stock = steps_of(comfy, build, f"situations/forced_{mode}", mode)
    assert torch.equal(ours, stock)
    assert "no saved parameters fit SD15, 2 steps at guidance 3" in comfy.log()


@pytest.mark.parametrize("mode", MODES)
def test_no_steps_change_nothing(comfy: ComfyServer, mode: str) -> None:
    def build(graph: Graph, on: Links, loaded: str) -> list[str]:
        start = ksampler(graph, on, sampler_name="euler", seed=8)
        on = {**on, "latent": link(start)}
        split = graph.add("SplitSigmas", sigmas=link(loaded, 2), step=STEPS)
        none = graph.add("BasicScheduler", model=on["model"], scheduler="karras", steps=4, denoise=0.0)
        return [
            start,
            ksampler(graph, on, denoise=0.0, cfg=3.0),
            sampler_custom(graph, on, link(loaded, 1), link(none), cfg=3.0),
            sampler_custom(graph, on, link(loaded, 1), link(split, 1), cfg=3.0, add_noise=False),
        ]

    start, *others = steps_of(comfy, build, f"situations/none_{mode}", mode)
    for other in others:
        torch.testing.assert_close(other, start, rtol=0, atol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_sigmas_beyond_the_models_largest(comfy: ComfyServer, mode: str) -> None:
    graph = Graph()
    on = model_of(graph, "SD2, v", "fp32")
    distill(graph, on, mode=mode, sigmas=link(graph.add("ManualSigmas", sigmas="30, 3, 0")), teacher="euler")
    run = comfy.run(graph.prompt)
    assert run.status == "success", run.error


@pytest.mark.parametrize("mode", ["paper", "balanced"])
def test_one_step(comfy: ComfyServer, mode: str) -> None:
    graph = Graph()
    on = model_of(graph, "SD2, v", "fp32")
    made = distill(graph, on, mode=mode, steps=1, samples=8, teacher="euler")
    node = graph.save_latent(link(sampler_custom(graph, on, link(made, 1), link(made, 2), cfg=CFG)))
    run = comfy.run(graph.prompt)
    assert run.status == "success", run.error
    assert torch.isfinite(comfy.latent(run, node)).all()


def test_sigmas_that_never_reach_0(comfy: ComfyServer) -> None:
    graph = Graph()
    on = model_of(graph, "SD1.5", "fp32")
    sigmas = link(graph.add("ManualSigmas", sigmas="10, 5, 2, 1, 0.5"))
    made = distill(graph, on, sigmas=sigmas)
    zero = graph.add("DODESampler", parameters=link(made), strength=0.0)
    euler = graph.add("KSamplerSelect", sampler_name="euler")
    samplers = {"distilled": link(made, 1), "base": link(zero), "stock": link(euler)}
    saved = {
        label: graph.save_latent(link(sampler_custom(graph, on, sampler, sigmas, cfg=CFG)))
        for label, sampler in samplers.items()
    }
    run = comfy.run(graph.prompt)
    assert run.status == "success", run.error
    same_as_stock(comfy, run, saved)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", SAYS)
def test_it_says_why_not(comfy: ComfyServer, name: str, mode: str) -> None:
    build, message = SAYS[name]
    graph = Graph()
    build(graph, model_of(graph, "SD1.5", "fp32"), **MODES[mode])
    run = comfy.run(graph.prompt)
    assert run.status == "error"
    assert message in run.error


def test_no_end_in_mode_balanced(comfy: ComfyServer) -> None:
    build, message = NO_END
    graph = Graph()
    build(graph, model_of(graph, "SD1.5", "fp32"), **MODES["balanced"])
    run = comfy.run(graph.prompt)
    assert run.status == "error"
    assert message in run.error


@pytest.mark.parametrize("how", ["breaks", "nan", "mixes"])
def test_one_sample_at_a_time_is_fine(comfy: ComfyServer, how: str) -> None:
    graph = Graph()
    distill(graph, patch("DodeTestOneAtATime", how=how)(graph, model_of(graph, "SD1.5", "fp32")), micro_batch=1)
    run = comfy.run(graph.prompt)
    assert run.status == "success", run.error


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("node", ["EasyCache", "LazyCache"])
def test_sampling_with_a_step_cache_is_fine(comfy: ComfyServer, node: str, mode: str) -> None:
    graph = Graph()
    plain = model_of(graph, "SD1.5", "fp32")
    made = distill(graph, plain, **MODES[mode])
    on = patch(node, **CACHE)(graph, plain)
    saved = graph.save_latent(link(sampler_custom(graph, on, link(made, 1), link(made, 2), cfg=CFG)))
    run = comfy.run(graph.prompt)
    assert run.status == "success", run.error
    assert torch.isfinite(comfy.latent(run, saved)).all()


def test_compare_on_picture_and_sound(comfy: ComfyServer) -> None:
    graph = Graph()
    on = model_of(graph, "LTX, video and sound", "fp32")
    made = distill(graph, on, scheduler="simple")
    inputs = {name: on[name] for name in ("model", "positive", "negative", "latent")} | {"cfg": CFG, "seed": 3}
    inputs |= {"reference": "euler", "reference_substeps": 2, "vae": link(graph.add("DodeTestDecoder"))}
    node = graph.add("DODECompare", parameters=link(made), **inputs)
    run = comfy.run(graph.prompt)
    assert run.status == "success", run.error
    assert len(run.outputs[node]["dode"][0]["columns"]) == 3


def test_an_empty_video_that_the_host_gives_sound(comfy: ComfyServer) -> None:
    """Newer hosts do so for some models: then the fit is on both, and what it gives is that of a latent with both."""
    graph = Graph()
    on = model_of(graph, "LTX, video and sound", "fp32")
    empty = graph.add("DodeTestEmptyVideo", model=on["model"])
    on["model"] = link(empty)
    both, video = on, {**on, "latent": link(empty, 1)}
    saved = []
    for latent in (both, video):
        made = distill(graph, latent, scheduler="simple")
        inputs = {name: latent[name] for name in ("model", "positive", "negative", "latent")} | {"cfg": CFG, "seed": 3}
        inputs |= {"reference": "euler", "reference_substeps": 2, "vae": link(graph.add("DodeTestDecoder"))}
        graph.add("DODECompare", parameters=link(made), **inputs)
        sampled = sampler_custom(graph, latent, link(made, 1), link(made, 2), cfg=CFG)
        parts = graph.add("LTXVSeparateAVLatent", av_latent=link(sampled))
        saved.append([graph.save_latent(link(parts, i)) for i in range(2)])
    run = comfy.run(graph.prompt)
    assert run.status == "success", run.error
    for one, other in zip(*saved, strict=True):
        assert torch.equal(comfy.latent(run, one), comfy.latent(run, other))


@pytest.mark.parametrize("situation", ["a part of a batch", "a mask"])
def test_compare_samples_what_any_sampler_does(comfy: ComfyServer, situation: str) -> None:
    graph = Graph()
    on = demo(graph)
    made = distill(graph, on, sigmas=link(graph.add("ManualSigmas", sigmas="20, 3, 0.5, 0")))
    if situation == "a mask":
        start = ksampler(graph, on, sampler_name="euler", seed=8)
        mask = graph.add("SolidMask", value=1.0, width=8, height=16)
        whole = graph.add("SolidMask", value=0.0, width=16, height=16)
        half = graph.add("MaskComposite", destination=link(whole), source=link(mask), x=0, y=0, operation="add")
        on["latent"] = link(graph.add("SetLatentNoiseMask", samples=link(start), mask=link(half)))
    else:
        three = graph.add("RepeatLatentBatch", samples=on["latent"], amount=3)
        on["latent"] = link(graph.add("LatentFromBatch", samples=link(three), batch_index=2, length=1))
    inputs = {name: on[name] for name in ("model", "positive", "negative", "latent", "vae")} | {"cfg": CFG, "seed": 3}
    node = graph.add("DODECompare", parameters=link(made), reference="euler", reference_substeps=2, **inputs)
    sampled = sampler_custom(graph, on, link(made, 1), link(made, 2), cfg=CFG, noise_seed=3)
    decoded = graph.add("VAEDecode", samples=link(sampled), vae=on["vae"])
    shown = graph.add("PreviewImage", images=link(decoded))
    run = comfy.run(graph.prompt)
    assert run.status == "success", run.error
    (ours,), (theirs,) = run.outputs[node]["dode"][0]["columns"][1]["pictures"], run.outputs[shown]["images"]
    assert (comfy.picture(ours) - comfy.picture(theirs)).abs().max() <= 1
