"""Nothing that the host gets changes device: on "meta" everywhere, and on a real accelerator wherever there is one."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.comfy.conftest import PACKS
from tests.comfy.graphs import ksampler, model_of, sampler_custom
from tests.comfy.server import ROOT, ComfyServer
from tests.comfy.situations import CFG, MODES, WINDOWS, distill, patch
from tests.comfy.workflow import Graph, link
from tests.comfyui import comfyui_dir

REAL = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize("device", ["meta", *REAL])
def test_what_the_host_gets_is_on_its_device(device: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.comfy.devices", str(comfyui_dir()), device]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count(f"on {device}") == 3


@pytest.fixture(params=REAL)
def server(request: pytest.FixtureRequest, comfy: ComfyServer, tmp_path: Path) -> Iterator[ComfyServer]:
    """A ComfyUI that computes on the device."""
    if request.param == "cpu":
        yield comfy
        return
    packs = [ROOT, PACKS / "dode-test-models", PACKS / "dode-test-kinds"]
    other = ComfyServer(comfyui_dir(), tmp_path, packs, device=request.param)
    yield other
    other.close()


@pytest.mark.parametrize("mode", MODES)
def test_context_windows_find_the_levels_that_they_are_told(server: ComfyServer, mode: str) -> None:
    """Context windows compare a call's noise level with the list of them: in the fit, and with parameters that moved them."""
    graph = Graph()
    on = patch("ContextWindowsManual", **WINDOWS)(graph, model_of(graph, "Wan 2.1, video", "fp32"))
    made = distill(graph, on, **MODES[mode], sigmas=link(graph.add("ManualSigmas", sigmas="0.9, 0.5, 0")))
    saved = [
        graph.save_latent(link(sampler_custom(graph, on, link(made, 1), link(made, 2), cfg=CFG))),
        graph.save_latent(link(ksampler(graph, on, sampler_name="euler", scheduler="simple", steps=2))),
    ]
    run = server.run(graph.prompt)
    assert run.status == "success", run.error
    assert all(torch.isfinite(server.latent(run, node)).all() for node in saved)
