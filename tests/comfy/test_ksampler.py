"""`dode` in KSampler's own lists."""

import torch

from tests.comfy.graphs import demo, distill, ksampler, sampler_custom
from tests.comfy.server import ComfyServer
from tests.comfy.workflow import Graph, link


def choices(comfy: ComfyServer, name: str) -> list[str]:
    return comfy.get("/object_info/KSampler")["KSampler"]["input"]["required"][name][0]


def test_one_name_in_each_list(comfy: ComfyServer) -> None:
    for name in ("sampler_name", "scheduler"):
        assert choices(comfy, name).count("dode") == 1
        assert [choice for choice in choices(comfy, name) if "dode" in choice] == ["dode"]
    selectable = comfy.get("/object_info/KSamplerSelect")["KSamplerSelect"]["input"]["required"]["sampler_name"]
    assert "dode" in (selectable[0] if isinstance(selectable[0], list) else selectable[1]["options"])


def test_where_nothing_fits_it_is_the_base_solver(comfy: ComfyServer) -> None:
    graph = Graph()
    on = demo(graph)
    wanted = {"steps": 9, "cfg": 1.7}
    ours = graph.save_latent(link(ksampler(graph, on, **wanted)))
    twice = graph.save_latent(link(ksampler(graph, on, **wanted, seed=6)))
    stock = graph.save_latent(link(ksampler(graph, on, **wanted, sampler_name="dpmpp_2m")))
    run = comfy.run(graph.prompt)
    assert run.status == "success", run.error
    assert torch.equal(comfy.latent(run, ours), comfy.latent(run, stock))
    assert not torch.equal(comfy.latent(run, ours), comfy.latent(run, twice))
    said = [
        line for line in comfy.log().splitlines() if "no saved parameters fit" in line and "9 steps at guidance 1.7" in line
    ]
    assert len(said) == 1
    assert "plain dpmpp_2m" in said[0]


def test_parameters_are_found_by_model_guidance_and_grid(comfy: ComfyServer) -> None:
    graph = Graph()
    on = demo(graph)
    for scale in (3.0, 4.0):
        distill(graph, on, cfg=scale, steps=5, seed=41, save_as=f"auto/{scale:g}")
    assert comfy.run(graph.prompt).status == "success"

    graph = Graph()
    on = demo(graph)
    ours, direct, other = [], [], []
    for scale in (3.0, 4.0):
        loaded = graph.add("DODELoad", file=f"auto/{scale:g}.safetensors", steps=0)
        ours.append(graph.save_latent(link(ksampler(graph, on, cfg=scale, steps=5))))
        custom = sampler_custom(graph, on, link(loaded, 1), link(loaded, 2), cfg=scale)
        direct.append(graph.save_latent(link(custom)))
        other.append(graph.save_latent(link(ksampler(graph, on, cfg=scale, steps=5, scheduler="exponential"))))
    run = comfy.run(graph.prompt)
    assert run.status == "success", run.error
    for a, b, c in zip(ours, direct, other, strict=True):
        assert torch.equal(comfy.latent(run, a), comfy.latent(run, b))
        assert not torch.equal(comfy.latent(run, a), comfy.latent(run, c))
    assert "KSampler uses auto/3.safetensors" in comfy.log()
    assert "KSampler uses auto/4.safetensors" in comfy.log()


def test_denoise_below_one_takes_the_end_of_the_grid(comfy: ComfyServer) -> None:
    graph = Graph()
    on = demo(graph)
    distill(graph, on, cfg=2.5, steps=6, seed=51, save_as="part")
    assert comfy.run(graph.prompt).status == "success"
    graph = Graph()
    on = demo(graph)
    start = ksampler(graph, on, sampler_name="euler", seed=8)
    on["latent"] = link(start)
    ours = graph.save_latent(link(ksampler(graph, on, cfg=2.5, steps=3, denoise=0.5)))
    loaded = graph.add("DODELoad", file="part.safetensors", steps=0)
    tail = graph.add("SplitSigmas", sigmas=link(loaded, 2), step=3)
    theirs = graph.save_latent(link(sampler_custom(graph, on, link(loaded, 1), link(tail, 1), cfg=2.5)))
    run = comfy.run(graph.prompt)
    assert run.status == "success", run.error
    assert torch.equal(comfy.latent(run, ours), comfy.latent(run, theirs))
    assert "KSampler uses part.safetensors" in comfy.log()
