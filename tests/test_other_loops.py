"""The examples of docs/python.md in other packages' loops end where ``dode.sample`` ends."""

import importlib
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import dode
from dode.demo.mixture import GaussianMixture, ring
from tests.comfyui import allow_cpu_only_torch
from tests.pipelines import sd15, sd15_prompt, trained
from tests.test_diffusers import SIGMAS, distilled

TEXT = (Path(__file__).resolve().parent.parent / "docs" / "python.md").read_text()
# skrample's own code needs that Python, and so does its package.
PACKAGES = ["k-diffusion", "diffusers", "A loop of your own", *(["skrample"] if sys.version_info >= (3, 12) else [])]


def example(name: str, **names: Any) -> dict[str, Any]:
    """Run an example with these names defined; returns all that it defined."""
    (code,) = re.findall(rf"\*\*{re.escape(name)}\b.*?```python\n(.*?)```", TEXT, re.DOTALL)
    exec(compile(code, f"docs/python.md, {name}", "exec"), names)
    return names


def linear(x: Tensor, timestep: Tensor, **_: Any) -> Tensor:
    return 0.3 * x + 0.001 * timestep[:, None]


def cases() -> dict[str, Any]:
    return {"k-diffusion": k_diffusion, "diffusers": in_diffusers, "A loop of your own": own_loop, "skrample": skrample}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' schedulers with NumPy 2
@pytest.mark.parametrize("package", PACKAGES)
def test_the_example_ends_where_the_loop_ends(package: str) -> None:
    cases()[package]()


def k_diffusion() -> None:
    allow_cpu_only_torch()
    with warnings.catch_warnings():  # its own, of what it imports
        warnings.simplefilter("ignore")
        importlib.import_module("k_diffusion")
    levels = trained()
    betas = torch.linspace(levels["beta_start"] ** 0.5, levels["beta_end"] ** 0.5, 1000) ** 2
    parameters, noise = distilled(told=False), torch.randn(3, 4)
    found = example(
        "k-diffusion", network=linear, alphas_cumprod=torch.cumprod(1 - betas, 0), parameters=parameters, noise=noise
    )
    wanted = dode.sample(found["denoiser"], noise * SIGMAS[0], parameters.tableau())
    torch.testing.assert_close(found["x0"], wanted)


def in_diffusers() -> None:
    pipeline, parameters = sd15(), distilled(guided=True)
    torch.manual_seed(0)
    found = example("diffusers", pipeline=pipeline, parameters=parameters, prompt=sd15_prompt())
    assert found["latents"].shape == (1, 4, 8, 8)
    assert torch.isfinite(found["latents"]).all()
    assert pipeline.scheduler is found["scheduler"]


def own_loop() -> None:
    model, noise = ring(), torch.randn(3, 4, dtype=torch.float64)
    for method in ("dpmpp_2m", "heun", "uni_pc", "ipndm"):
        parameters = distilled(method, told=method != "uni_pc")
        found = example("A loop of your own", parameters=parameters, noise=noise, denoiser=model)
        assert torch.equal(found["x0"], dode.sample(model, noise * SIGMAS[0], parameters.tableau()))


def skrample() -> None:
    model: GaussianMixture = ring(flow=True)
    noise, sigmas = torch.randn(3, 4, dtype=torch.float64), tuple(np.linspace(1, 0, 6).tolist())
    parameters = distilled("ipndm", sigmas, "flow", told=False)

    def velocity(x: Tensor, timestep: float, sigma: float, alpha: float) -> Tensor:
        return (x - model(x, torch.full((len(x),), sigma, dtype=x.dtype))) / sigma

    found = example("skrample", parameters=parameters, noise=noise, velocity=velocity)
    wanted = dode.sample(model, noise, parameters.tableau())
    torch.testing.assert_close(found["x0"], wanted, rtol=1e-9, atol=1e-9)
