"""A file that was distilled in ComfyUI gives, through the WebUI's adapter, the latent that ComfyUI gives."""

import types
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dode.demo.model import context_of, embedded_model
from dode.files.parameter_file import load_parameters
from dode.sampling import Guided
from tests.comfy.graphs import CFG, STEPS, demo, distill, ksampler
from tests.comfy.server import ComfyServer
from tests.comfy.workflow import Graph, link
from tests.webui.installed import webuis
from tests.webui.standins import Patcher


class DemoModel:
    """What the WebUI would give a sampler for the demo model: both outputs, and what is called after guidance."""

    def __init__(self) -> None:
        self.network, self.step, self.init_latent, self.nmask = embedded_model(), 0, None, None
        self.p = types.SimpleNamespace(is_hr_pass=False)
        self.checkpoint = types.SimpleNamespace(forge_objects=types.SimpleNamespace(unet=Patcher(types.SimpleNamespace())))
        self.inner_model = types.SimpleNamespace(inner_model=self.checkpoint)

    def __call__(self, x: Tensor, sigma: Tensor, cond_scale: float) -> Tensor:
        out = self.network(x, sigma, context_of(torch.zeros(len(x), dtype=torch.int64)), cond_scale, both=True)
        assert isinstance(out, Guided)
        other = out.denoised - cond_scale * out.difference
        denoised = out.denoised
        for function in self.checkpoint.forge_objects.unet.model_options.get("sampler_post_cfg_function", []):
            arguments = {"denoised": denoised, "cond_denoised": other + out.difference, "uncond_denoised": other}
            denoised = function(arguments)
        return denoised


def test_the_same_file_in_both_hosts(comfy: ComfyServer, tmp_path: Path) -> None:
    graph = Graph()
    settings: dict[str, Any] = {"mode": "balanced", "solver": "best of several", "samples": 8, "save_as": "webui/both"}
    distill(graph, demo(graph), **settings)
    run = comfy.run(graph.prompt)
    assert run.status == "success", run.error
    graph = Graph()
    node = graph.save_latent(link(ksampler(graph, demo(graph), scheduler="dode")))
    run = comfy.run(graph.prompt)
    assert run.status == "success", run.error
    theirs = comfy.latent(run, node)

    entry = load_parameters(comfy.base / "output" / "dode" / "webui" / "both.safetensors").entries[0]
    assert entry.parameters.guidance is not None
    sigmas = torch.tensor(entry.parameters.sigmas)
    assert len(sigmas) == STEPS + 1
    start = torch.randn(theirs.shape, generator=torch.Generator().manual_seed(5)) * sigmas[0]
    with webuis(tmp_path) as make:
        run_entry = make("forge").part("sampler").run_entry
        ours = run_entry(entry, DemoModel(), start, sigmas, extra_args={"cond_scale": CFG}, disable=True)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
