"""k-diffusion's own models and samplers: loaded from its files, distilled, sampled, and replaced one for one."""

import importlib
import inspect
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dode import kdiffusion
from dode.__main__ import main
from dode.correction import Parameters
from dode.errors import MethodError, ModelError, ParameterError
from dode.files.parameter_file import load_parameters
from dode.fit.distill import distill
from dode.sampling import sample
from dode.schedules import schedule
from tests.comfyui import allow_cpu_only_torch

# k-diffusion's own dependencies warn of each other.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

CONFIG = {
    "model": {
        "type": "image_v1",
        "input_channels": 3,
        "input_size": [8, 8],
        "mapping_out": 16,
        "depths": [1, 1],
        "channels": [16, 16],
        "self_attn_depths": [False, False],
        "cross_attn_depths": None,
        "sigma_data": 0.5,
        "sigma_min": 0.02,
        "sigma_max": 20.0,
        "sigma_sample_density": {"type": "lognormal", "mean": -1.2, "std": 1.2},
    },
    "dataset": {"type": "imagefolder", "location": "nowhere"},
}


@pytest.fixture(scope="module")
def package() -> Any:
    allow_cpu_only_torch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("k_diffusion")


@pytest.fixture(scope="module")
def files(package: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small network, saved as k-diffusion saves one. Its last layers start at zero; here they are drawn as well."""
    folder = tmp_path_factory.mktemp("model")
    config = folder / "config.json"
    config.write_text(json.dumps(CONFIG))
    torch.manual_seed(0)
    network = package.config.make_model(package.config.load_config(config))
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    save_file(network.state_dict(), folder / "small.safetensors")
    torch.save({"model": {}, "model_ema": network.state_dict(), "step": 3}, folder / "small.pth")
    return config, folder / "small.safetensors"


@pytest.fixture(scope="module")
def model(files: tuple[Path, Path]) -> kdiffusion.KDiffusionModel:
    return kdiffusion.load_model(*files)


CALLS = [*((name, {}) for name in kdiffusion.NAMES), ("sample_dpmpp_2m_sde", {"solver_type": "heun"})]


@pytest.mark.parametrize(("name", "more"), CALLS)
def test_drop_in_takes_and_gives_what_k_diffusion_does(
    name: str, more: dict[str, Any], package: Any, model: kdiffusion.KDiffusionModel
) -> None:
    theirs, ours = getattr(package.sampling, name), getattr(kdiffusion, name)
    x = torch.randn(2, *model.shape) * model.sigma_max
    sigmas = package.sampling.get_sigmas_karras(7, model.sigma_min, model.sigma_max)
    grid = [torch.tensor(model.sigma_min), torch.tensor(model.sigma_max), 7] if name == "sample_dpm_fast" else [sigmas]
    plain = {"s_churn": 0.0, "s_tmin": 0.0, "s_tmax": 1.0, "s_noise": 1.0, "eta": 0.0, "order": 3, "r": 0.5, **more}
    options = {option: plain[option] for option in inspect.signature(theirs).parameters if option in plain}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = theirs(model, x, *grid, disable=True, **options)
    steps: list[int] = []
    got = ours(model, x, *grid, extra_args={}, callback=lambda state: steps.append(state["i"]), disable=True, **options)
    assert torch.allclose(got, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
    assert steps == list(range(len(steps)))
    assert steps
    assert (got - x).abs().max() > 1


def test_options_that_add_noise_are_refused(model: kdiffusion.KDiffusionModel) -> None:
    x, sigmas = torch.randn(1, *model.shape), torch.tensor([20.0, 1.0, 0.0])
    with pytest.raises(MethodError, match="s_churn = 5 adds noise"):
        kdiffusion.sample_euler(model, x, sigmas, s_churn=5)
    with pytest.raises(MethodError, match="no option 'colour'"):
        kdiffusion.sample_euler(model, x, sigmas, colour=1)
    with pytest.raises(MethodError, match="no option 'order'"):
        kdiffusion.sample_euler(model, x, sigmas, order=2)
    with pytest.raises(MethodError, match="no deterministic sampler"):
        kdiffusion.drop_in("sample_euler_ancestral")
    for name in kdiffusion.NOISY:
        with pytest.raises(MethodError, match="adds noise unless eta is 0"):
            getattr(kdiffusion, name)(model, x, sigmas)
        with pytest.raises(MethodError, match=r"eta = 1\.0 adds noise"):
            getattr(kdiffusion, name)(model, x, sigmas, eta=1.0)
    with pytest.raises(MethodError, match="solver_type must be one of midpoint, heun"):
        kdiffusion.sample_dpmpp_2m_sde(model, x, sigmas, eta=0, solver_type="ralston")
    with pytest.raises(MethodError, match="r = 1/2 alone"):
        kdiffusion.sample_dpmpp_sde(model, x, sigmas, eta=0, r=0.3)


def test_those_that_add_noise_by_default_are_all_named(package: Any) -> None:
    eta = {name for name in kdiffusion.NAMES if "eta" in inspect.signature(getattr(package.sampling, name)).parameters}
    assert {name for name in eta if inspect.signature(getattr(package.sampling, name)).parameters["eta"].default} == set(
        kdiffusion.NOISY
    )


@pytest.mark.parametrize(("name", "more"), [call for call in CALLS if call[0] != "sample_dpm_fast"])
def test_distilled_drop_in(name: str, more: dict[str, Any], model: kdiffusion.KDiffusionModel) -> None:
    method = "dpmpp_2m_heun" if more else kdiffusion.NAMES[name]
    sigmas = schedule("karras", 4, model.sigma_min, model.sigma_max)
    grid, x = torch.tensor(sigmas), torch.randn(12, *model.shape) * model.sigma_max
    found = distill(model, x, sigmas, method=method)
    assert found.report.error_distilled < found.report.error_base
    options = {"eta": 0.0, **more} if name in kdiffusion.NOISY else {}
    sampler = kdiffusion.drop_in(name, found.parameters)
    got = sampler(model, x, grid, disable=True, **options)
    torch.testing.assert_close(got, sample(model, x, found.parameters.tableau()))
    assert not torch.equal(got, kdiffusion.drop_in(name)(model, x, grid, disable=True, **options))
    others = "sample_euler" if method != "euler" else "sample_heun"
    with pytest.raises(ParameterError, match=f"needs parameters of '{kdiffusion.NAMES[others]}'"):
        kdiffusion.drop_in(others, found.parameters)


def test_an_option_that_is_not_the_parameters_own_is_refused(model: kdiffusion.KDiffusionModel) -> None:
    grid = (20.0, 2.0, 0.0)
    x, sigmas = torch.randn(1, *model.shape), torch.tensor(grid)
    lms = kdiffusion.drop_in("sample_lms", Parameters("lms_k_diffusion", 3, "noise", grid, np.array([[0.0], [0.1]])))
    assert lms(model, x, sigmas, order=3, disable=True).isfinite().all()
    with pytest.raises(ParameterError, match="of order 3, not 4"):
        lms(model, x, sigmas, order=4)
    sde = kdiffusion.drop_in("sample_dpmpp_2m_sde", Parameters("dpmpp_2m", 2, "data", grid, np.array([[0.0], [0.1]])))
    with pytest.raises(ParameterError, match="of 'dpmpp_2m', not 'dpmpp_2m_heun'"):
        sde(model, x, sigmas, eta=0, solver_type="heun")


def test_distilled_dpm_fast_runs_on_its_own_ends_alone(model: kdiffusion.KDiffusionModel) -> None:
    sigmas = schedule("karras", 6, model.sigma_min, model.sigma_max)
    x = torch.randn(8, *model.shape) * model.sigma_max
    sampler = kdiffusion.drop_in("sample_dpm_fast", distill(model, x, sigmas, method="dpm_fast").parameters)
    assert sampler(model, x, model.sigma_min, model.sigma_max, 6, disable=True).isfinite().all()
    with pytest.raises(ParameterError, match="6 evaluations"):
        sampler(model, x, model.sigma_min, model.sigma_max, 9)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_distill_and_sample_from_the_command_line(suffix: str, files: tuple[Path, Path], tmp_path: Path) -> None:
    where = ["--k-diffusion", str(files[0]), str(files[1].with_suffix(suffix))]
    out, latents = tmp_path / "small.safetensors", tmp_path / "latents.safetensors"
    fit = [
        "distill",
        str(out),
        "--method",
        "dpm_2",
        "--evaluations",
        "5",
        "--mode",
        "paper",
        "--samples",
        "8",
        "--substeps",
        "4",
        *where,
    ]
    assert main(fit) == 0
    entry = load_parameters(out).entries[0]
    assert (entry.parameters.method, entry.model.name, entry.model.channels) == ("dpm_2", "small", 3)
    assert entry.model.family == "k-diffusion image_v1"
    assert main(["sample", str(latents), "--parameters", str(out), "--evaluations", "5", "--count", "2", *where]) == 0
    assert latents.stat().st_size > 2 * 3 * 8 * 8 * 4


def test_files_that_are_something_else_are_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text("{}")
    with pytest.raises(ModelError, match="not a k-diffusion config"):
        kdiffusion.load_model(other, files[1])
    with pytest.raises(ModelError, match="does not hold the weights"):
        kdiffusion.load_model(files[0], other)


def test_classes_and_guidance(package: Any) -> None:
    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(self, x: torch.Tensor, sigma: torch.Tensor, class_cond: torch.Tensor) -> torch.Tensor:
            return x * 0 + class_cond[:, None, None, None] * self.scale

    config = {"model": CONFIG["model"], "dataset": {"num_classes": 3}}
    model = kdiffusion.KDiffusionModel(Network(), config, "classes")
    extra = model.extra_args(2.0)(torch.tensor([1, 5]))
    assert extra["class_cond"].tolist() == [1, 2]
    out = model(torch.zeros(2, 3, 8, 8), torch.ones(2), **extra)
    assert out[:, 0, 0, 0].tolist() == [3 + 2 * (1 - 3), 3 + 2 * (2 - 3)]
    plain = kdiffusion.KDiffusionModel(Network(), {"model": CONFIG["model"], "dataset": {"num_classes": 0}}, "plain")
    with pytest.raises(ModelError, match="no classes"):
        plain.extra_args(2.0)
