"""The same parameters give the same latent wherever they are used, and λ = 0 is the host's own sampler."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dode.demo.model import context_of, embedded_model
from dode.files.parameter_file import load_parameters
from dode.methods import METHODS
from dode.sampling import sample
from tests.comfy.graphs import CFG, STEPS, demo, distill, ksampler, sampler_custom, sampler_custom_advanced
from tests.comfy.server import ROOT, ComfyServer
from tests.comfy.workflow import Graph, link
from tests.comfyui import comfyui_dir


def test_in_a_new_session_and_on_the_command_line(tmp_path: Path) -> None:
    """Distilled in one server, used in the next one in every way there is."""
    first = ComfyServer(comfyui_dir(), tmp_path)
    try:
        graph = Graph()
        on = demo(graph, size=32)
        # Below the model's largest σ the host scales noise by σ alone, as the command line does.
        sigmas = link(graph.add("KarrasScheduler", steps=STEPS, sigma_max=60.0, sigma_min=0.02, rho=7.0))
        node = distill(graph, on, save_as="same", sigmas=sigmas)
        made = graph.save_latent(link(sampler_custom(graph, on, link(node, 1), link(node, 2))))
        run = first.run(graph.prompt)
        assert run.status == "success", run.error
        original = first.latent(run, made)
    finally:
        first.close()

    second = ComfyServer(comfyui_dir(), tmp_path)
    try:
        graph = Graph()
        on = demo(graph, size=32)
        loaded = graph.add("DODELoad", file="same.safetensors", steps=0, model=on["model"])
        strong = link(graph.add("DODESampler", parameters=link(loaded), strength=1.0))
        weak = link(graph.add("DODESampler", parameters=link(loaded), strength=0.0))
        grid = link(graph.add("DODESigmas", parameters=link(loaded)))
        dode = link(graph.add("KSamplerSelect", sampler_name="dode"))
        ways = {
            "SamplerCustom": sampler_custom(graph, on, link(loaded, 1), link(loaded, 2)),
            "SamplerCustomAdvanced": sampler_custom_advanced(graph, on, strong, grid),
            "KSampler": ksampler(graph, on, scheduler="dode"),
            "KSamplerSelect": sampler_custom(graph, on, dode, grid),
        }
        written = {name: graph.save_latent(link(number)) for name, number in ways.items()}
        undistilled = graph.save_latent(link(sampler_custom(graph, on, weak, grid)))
        run = second.run(graph.prompt)
        assert run.status == "success", run.error
        for name, number in written.items():
            assert torch.equal(second.latent(run, number), original), name
        assert not torch.allclose(second.latent(run, undistilled), original, atol=1e-2)
        assert second.log().count("KSampler uses same.safetensors") == 1
    finally:
        second.close()

    path = tmp_path / "output" / "dode" / "same.safetensors"
    tableau = load_parameters(path).entries[0].parameters.tableau()
    noise = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(5)) * tableau.sigma
    extra = {"context": context_of(torch.tensor([0])), "guidance": CFG}
    torch.testing.assert_close(sample(embedded_model(), noise, tableau, extra_args=extra), original, rtol=0, atol=1e-4)

    output = tmp_path / "command_line.safetensors"
    command = [sys.executable, "-m", "dode", "sample", "--parameters", str(path), "--evaluations", str(tableau.evaluations)]
    command += ["--guidance", str(CFG), "--count", "1", "--seed", "5", str(output)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    torch.testing.assert_close(load_file(output)["latents"], original, rtol=0, atol=1e-4)


ROUNDING = {"uni_pc": 2e-3, "uni_pc_bh2": 5e-4, "deis": 5e-4}


def reproduced(coordinate: str) -> list[tuple[str, int]]:
    """Methods at their default order, and which of their stock samplers is this host's and agrees on such a model.

    Of the host's samplers only those that a SAMPLER can run: not dpm_fast, which makes a grid of its own, nor single steps.
    """
    found: list[tuple[str, int]] = []
    for name, method in METHODS.items():
        for number, stock in enumerate(method.stock):
            ours = re.match(r"comfy\.[\w.]+:sample_(?!dpm_fast)", stock.function) and coordinate in stock.coordinates
            ours = ours and stock.fewest_steps <= 7
            if ours and method.default_order in (stock.orders or (method.default_order,)):
                if stock.most_steps(method.default_order) >= 6:
                    found.append((name, number))
                break
    return found


@pytest.mark.parametrize("kind", ["eps", "v", "edm", "flow", "flow, shifted"])
def test_without_correction_it_is_the_hosts_own_sampler(comfy: ComfyServer, kind: str) -> None:
    """The bound is float32 rounding along seven steps, in units of the result's largest number.

    The host computes the coefficients of three of its samplers in float32 too, out of an ill-conditioned system (UniPC) or an
    integral (DEIS), ours are float64; run in float64, as the golden tests do, those agree as well.
    """
    kind, _, shifted = kind.partition(", ")
    methods = reproduced("flow" if kind == "flow" else "log_sigma")
    assert {"euler", "heun", "dpmpp_2m", "ipndm", "deis", "uni_pc"} <= {name for name, _ in methods}
    graph = Graph()
    model = graph.add("DodeTestModel", kind=kind)
    latent = graph.add("EmptyLatentImage", width=128, height=128, batch_size=2)
    on = {"model": link(model), "positive": link(model, 1), "negative": link(model, 2), "latent": link(latent)}
    if shifted:
        on["model"] = link(graph.add("ModelSamplingSD3", model=on["model"], shift=3.0))
    scheduler = "simple" if kind == "flow" else "karras"
    sigmas = link(graph.add("BasicScheduler", model=on["model"], scheduler=scheduler, steps=7, denoise=1.0))
    pairs: dict[str, tuple[str, str]] = {}
    for name, number in methods:
        node = distill(graph, on, solver=name, sigmas=sigmas, samples=2, teacher="euler", teacher_substeps=2, micro_batch=2)
        base = link(graph.add("DODESampler", parameters=link(node), strength=0.0))
        stock = link(graph.add("DodeTestStockSampler", method=name, number=number))
        ours, theirs = (graph.save_latent(link(sampler_custom(graph, on, way, sigmas))) for way in (base, stock))
        pairs[name] = ours, theirs
    run = comfy.run(graph.prompt)
    assert run.status == "success", run.error
    differences: dict[str, float] = {}
    for name, (ours, theirs) in pairs.items():
        a, b = comfy.latent(run, ours), comfy.latent(run, theirs)
        assert a.std() > 0.1, name
        differences[name] = float((a - b).abs().max() / b.abs().max())
    odd = {name: d for name, d in differences.items() if d > ROUNDING.get(name, 5e-6)}
    assert not odd


def test_part_of_the_grid_is_used_where_the_host_cuts_it(comfy: ComfyServer) -> None:
    """SplitSigmas: the second half starts without history, with the parameters of its own steps."""
    graph = Graph()
    on = demo(graph)
    node = distill(graph, on, save_as="cut", seed=31)
    halves = graph.add("SplitSigmas", sigmas=link(node, 2), step=2)
    first = sampler_custom(graph, on, link(node, 1), link(halves))
    rest = {**on, "latent": link(first)}
    second = sampler_custom(graph, rest, link(node, 1), link(halves, 1), add_noise=False)
    written = graph.save_latent(link(first)), graph.save_latent(link(second))
    run = comfy.run(graph.prompt)
    assert run.status == "success", run.error
    start, end = (comfy.latent(run, number) for number in written)
    parameters = load_parameters(comfy.base / "output/dode/cut.safetensors").entries[0].parameters
    tail = parameters.tableau(parameters.sigmas[2:])
    extra = {"context": context_of(torch.tensor([0])), "guidance": CFG}
    torch.testing.assert_close(sample(embedded_model(), start, tail, extra_args=extra), end, rtol=0, atol=1e-4)
    assert np.isfinite(end.numpy()).all()
