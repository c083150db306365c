"""The fit that brings its own noise levels and the guidance channel, in a real ComfyUI."""

from typing import Any

import numpy as np
import pytest
import torch

from dode import Teacher, distill_students
from dode.demo.model import context_of, embedded_model
from dode.demo.pictures import CLASSES
from dode.files.interpolation import interpolate
from dode.files.parameter_file import load_parameters
from tests.comfy.graphs import CFG, SIZE, demo, distill, ksampler, sampler_custom, sampler_custom_advanced, watched
from tests.comfy.server import ComfyServer
from tests.comfy.workflow import Graph, link

QUICK = {"mode": "balanced", "solver": "dpmpp_2m", "teacher": "dpmpp_3m", "samples": 8, "micro_batch": 8, "steps": 3}


def entries(comfy: ComfyServer, name: str) -> Any:
    return load_parameters(comfy.base / "output" / "dode" / f"{name}.safetensors").entries


@pytest.fixture(scope="module")
def fitted(comfy: ComfyServer) -> str:
    """A file with three and four steps at guidance 3 and 5."""
    graph = Graph()
    node = distill(
        graph, demo(graph), **{**QUICK, "samples": 16}, seed=1, cfg=3.0, also_steps="4", also_cfg="5", save_as="refined"
    )
    run = comfy.run(graph.prompt)
    assert run.status == "success", run.error
    values = [value for value, _ in run.progress(node)]
    assert values == sorted(values)
    assert values[-1] == run.progress(node)[-1][1]
    assert "refined.safetensors" in run.outputs[node]["text"][0]
    return "refined"


def test_one_run_gives_a_file_of_several(comfy: ComfyServer, fitted: str) -> None:
    found = entries(comfy, fitted)
    assert [(len(e.parameters.sigmas) - 1, e.guidance) for e in found] == [(3, 3), (4, 3), (3, 5), (4, 5)]
    for entry in found:
        assert entry.parameters.guidance is not None
        assert entry.report.error_distilled < entry.report.error_base
        assert entry.evaluations == len(entry.parameters.sigmas) - 1
    assert [e.parameters.method for e in found[:2]] == [e.parameters.method for e in found[2:]]
    assert found[0].parameters.sigmas != found[2].parameters.sigmas  # what the next test needs
    assert interpolate([found[0], found[2]], 4.0).guidance == 4


def test_every_way_to_sample_gives_the_same(comfy: ComfyServer, fitted: str) -> None:
    graph = Graph()
    on = demo(graph)
    file = f"{fitted}.safetensors"
    loaded = {scale: graph.add("DODELoad", file=file, steps=3, cfg=scale, model=on["model"]) for scale in (3.0, 4.0, 5.0)}
    shown = [graph.add("DODEInspect", parameters=link(node)) for node in loaded.values()]
    found = {}
    for scale, node in loaded.items():
        auto = ksampler(graph, on, cfg=scale, steps=3, scheduler="dode")
        custom = sampler_custom(graph, on, link(node, 1), link(node, 2), cfg=scale)
        found[scale] = tuple(graph.save_latent(link(n)) for n in (auto, custom))
    advanced = sampler_custom_advanced(graph, on, link(loaded[3.0], 1), link(loaded[3.0], 2), cfg=3.0)
    third = graph.save_latent(link(advanced))
    run = comfy.run(graph.prompt)
    assert run.status == "success", run.error
    for auto, custom in found.values():
        torch.testing.assert_close(comfy.latent(run, auto), comfy.latent(run, custom), rtol=0, atol=2e-3)
    assert torch.equal(comfy.latent(run, third), comfy.latent(run, found[3.0][1]))
    assert "on its own noise levels" in comfy.log()
    assert all("γ" in run.outputs[node]["text"][0] for node in shown)

    graph = Graph()
    node = graph.add("DODELoad", file=file, steps=3, cfg=8.0)
    graph.add("DODEInspect", parameters=link(node))
    refused = comfy.run(graph.prompt)
    assert (refused.status, "guidance 3 to 5, this is 8" in refused.error) == ("error", True)


def test_without_guidance_the_channel_is_refused_in_words(comfy: ComfyServer, fitted: str) -> None:
    graph = Graph()
    on = demo(graph)
    node = graph.add("DODELoad", file=f"{fitted}.safetensors", steps=3)
    graph.save_latent(link(sampler_custom(graph, on, link(node, 1), link(node, 2), cfg=1.0)))
    run = comfy.run(graph.prompt)
    assert run.status == "error"
    assert "Use a guidance scale other than 1" in run.error


def test_at_guidance_one_there_is_no_channel(comfy: ComfyServer) -> None:
    graph = Graph()
    node = distill(graph, demo(graph), **{**QUICK, "solver": "best of several"}, cfg=1.0, save_as="plain")
    del graph.prompt[node]["inputs"]["negative"]
    run = comfy.run(graph.prompt)
    assert run.status == "success", run.error
    (entry,) = entries(comfy, "plain")
    assert entry.parameters.guidance is None
    assert entry.report.error_distilled < entry.report.error_base


def test_prompts_are_held_out_as_in_the_core(comfy: ComfyServer) -> None:
    """Of four prompts, the samples of one judge."""
    words, levels = ["fish", "tree", "planet", "face"], (7.0, 3.0, 1.2, 0.4, 0.0)
    graph = Graph()
    on = demo(graph)
    on["positive"] = link(graph.add("DODEPromptSet", clip=on["clip"], prompts="\n".join(words)))
    sigmas = link(graph.add("ManualSigmas", sigmas=", ".join(map(str, levels))))
    distill(graph, on, **QUICK, teacher_substeps=2, sigmas=sigmas, save_as="four")
    run = comfy.run(graph.prompt)
    assert run.status == "success", run.error
    (entry,) = entries(comfy, "four")

    model = embedded_model()
    labels = torch.tensor([CLASSES.index(words[i // 2]) for i in range(8)])

    def core(groups: list[int] | None) -> Any:
        return distill_students(
            model,
            torch.randn(8, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)),
            evaluations=(4,),
            sigma_range=(model.sigma_min, model.sigma_max),
            solvers=("dpmpp_2m",),
            grids=lambda steps: [np.array(levels)],
            teacher=Teacher("dpmpp_3m", substeps=2),
            extra_args=lambda samples: {"context": context_of(labels[samples]), "guidance": CFG, "both": True},
            groups=groups,
        )[0]

    told, plain = core([i // 2 for i in range(8)]), core(None)
    np.testing.assert_allclose(entry.parameters.values, told.parameters.values, rtol=0, atol=1e-2)
    assert entry.report.error_distilled == pytest.approx(told.report.error_distilled, rel=1e-2)
    assert np.abs(entry.parameters.values - plain.parameters.values).max() > 3e-2


def test_every_model_call_finds_its_sigma(comfy: ComfyServer) -> None:
    graph = Graph()
    on = watched(graph)
    fit = {**QUICK, "scheduler": "simple", "samples": 4}
    for mode in ("balanced", "best"):
        node = distill(graph, on, **{**fit, "mode": mode})
        graph.save_latent(link(sampler_custom(graph, on, link(node, 1), link(node, 2))))
    run = comfy.run(graph.prompt)
    assert run.status == "success", run.error


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"also_steps": "four"}, "also_steps must be up to"),
        ({"also_cfg": "3, 1000"}, "also_cfg must be up to"),
        ({"also_cfg": "3", "mode": "paper"}, "Empty also_cfg (3)"),
        ({"also_steps": "4, 8", "mode": "paper"}, "Empty also_steps (4, 8)"),
        ({"guard": False}, "Mode balanced has no fit without guard"),
        ({"prediction": "noise"}, "Set prediction (noise) to"),
        ({"order": 2}, "Set order (2) to 0"),
    ],
)
def test_settings_that_cannot_be(comfy: ComfyServer, changes: dict[str, Any], message: str) -> None:
    graph = Graph()
    distill(graph, demo(graph), **{**QUICK, **changes})
    run = comfy.run(graph.prompt)
    assert run.status == "error"
    assert message in run.error
