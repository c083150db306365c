"""Models that misbehave: no crash, only numbers in a result, and the base solver where nothing better is found."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dode.correction import Parameters
from dode.demo.mixture import ring
from dode.errors import GridError, ModelError
from dode.files.parameter_file import Entry, load_parameters, save_parameters
from dode.fit.all_numbers import distill_students
from dode.fit.distill import distill
from dode.fit.free_parameters import Freedom
from dode.report import Distillation
from dode.sampling import Guided, sample
from dode.schedules import schedule
from dode.teacher import Teacher

Denoiser = Callable[..., Any]
EXACT = ring()
LOW, HIGH = 0.03, 10.0
SIGMAS = schedule("karras", 4, LOW, HIGH)
FITS = ["paper", "multi-tap", "balanced", "best"]


def noise(count: int = 8) -> Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(1))


def fit(kind: str, denoiser: Denoiser, x: Tensor | None = None, **more: Any) -> Distillation:
    x = noise() if x is None else x
    if kind in ("paper", "multi-tap"):
        options = {"taps": 1} if kind == "paper" else {"taps": 3, "ridge": 0.0}
        return distill(denoiser, x * HIGH, SIGMAS, teacher=Teacher("euler", substeps=3), micro_batch=3, **options, **more)
    freedom = {"balanced": Freedom(), "best": Freedom(taps=16, guidance_taps=16, starts=2, again=1)}[kind]
    options = {"solvers": ("ipndm", "dpmpp_2m"), "teacher": Teacher("euler", substeps=3), "micro_batch": 3}
    return distill_students(denoiser, x, evaluations=[4], sigma_range=(LOW, HIGH), mode=freedom, **options, **more)[0]


def sound(found: Distillation, denoiser: Denoiser, path: Path) -> Parameters:
    """Every number is one, it can be stored and read again, it samples, and is not worse than its base."""
    report, parameters = found.report, found.parameters
    for values in (parameters.values, parameters.guidance, np.array(parameters.sigmas), parameters.model_sigmas):
        assert values is None or np.isfinite(values).all()
    assert 0 <= report.error_distilled <= report.error_base < math.inf
    assert math.isfinite(report.ratio)
    save_parameters(path / "odd.safetensors", [Entry(parameters, report=report)])
    (entry,) = load_parameters(path / "odd.safetensors").entries
    table = entry.parameters.tableau()
    assert torch.isfinite(sample(denoiser, noise(3) * table.sigma, table)).all()
    return parameters


def constant(x: Tensor, sigma: Tensor) -> Tensor:
    return torch.full_like(x, 0.7)


def linear(x: Tensor, sigma: Tensor) -> Tensor:
    """One Gaussian's exact denoiser: all samples move alike, so that all directions of a sample are parallel."""
    return x / (1 + sigma[:, None] ** 2)


def proportional(x: Tensor, sigma: Tensor) -> Tensor:
    return 0.5 * x


def guided(model: Denoiser, scale: float) -> Denoiser:
    """The exact model and a push to one side, with both outputs."""

    def denoise(x: Tensor, sigma: Tensor) -> Guided:
        plain, push = model(x, sigma), torch.tanh(x) / (1 + sigma[:, None])
        return Guided(plain + (scale - 1) * push, push)

    return denoise


def unguided(x: Tensor, sigma: Tensor) -> Guided:
    """Both outputs are the same: the guidance channel's directions are zero."""
    return Guided(EXACT(x, sigma), torch.zeros_like(x))


def halved(x: Tensor, sigma: Tensor) -> Tensor:
    """Computed in half precision."""
    return EXACT(x, sigma).half().float()


ODD = {
    "constant": constant,
    "linear": linear,
    "proportional": proportional,
    "no guidance in the channel": unguided,
    "guidance of 1000": guided(EXACT, 1000.0),
    "half precision": halved,
}


@pytest.mark.parametrize("kind", FITS)
@pytest.mark.parametrize("name", ODD)
def test_odd_models(kind: str, name: str, tmp_path: Path) -> None:
    sound(fit(kind, ODD[name]), ODD[name], tmp_path)


@pytest.mark.parametrize("kind", FITS)
def test_a_constant_model_needs_no_correction(kind: str, tmp_path: Path) -> None:
    parameters = sound(fit(kind, constant), constant, tmp_path)
    assert not parameters.values.any()


@pytest.mark.parametrize("kind", FITS)
def test_all_samples_the_same(kind: str, tmp_path: Path) -> None:
    sound(fit(kind, EXACT, noise(1).repeat(6, 1)), EXACT, tmp_path)


@pytest.mark.parametrize("kind", FITS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_model_that_always_breaks_down_is_an_error(kind: str, value: float) -> None:
    with pytest.raises(ModelError, match="returned NaN or infinity at sigma"):
        fit(kind, lambda x, sigma: torch.full_like(x, value))


class OnlyTheBase:
    """The exact model until the fit knows its base solver's way; from then on not a number at any new point of the fit."""

    def __init__(self) -> None:
        self.stage, self.fits, self.refined = "", 0, 0
        self.known: set[tuple[float, ...]] = set()
        self.broken = 0

    def progress(self, stage: str, done: int, total: int) -> None:
        self.fits += stage == "fit"
        self.stage = self.stage if stage == "fit" else stage

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        points = [tuple(row) for row in torch.cat([x, sigma[:, None]], 1).tolist()]
        self.refined += len(points) * (self.stage == "refine")
        fails = self.fits > 2 if self.stage == "student" else self.refined > 1 + 4 * 8  # one sample, then the start's whole way
        if fails and not self.known.issuperset(points):
            self.broken += 1
            return torch.full_like(x, math.nan)
        self.known.update(points)
        return EXACT(x, sigma)


@pytest.mark.parametrize("kind", FITS)
def test_where_corrections_break_it_the_base_solver_is_kept(kind: str, tmp_path: Path) -> None:
    model = OnlyTheBase()
    found = fit(kind, model, progress=model.progress)
    assert model.broken
    assert found.report.error_distilled == found.report.error_base
    assert not found.parameters.values.any()
    if kind in ("paper", "multi-tap"):
        assert set(found.report.kept) == {0.0}
    sound(found, EXACT, tmp_path)


@pytest.mark.parametrize("kind", ["balanced", "best"])
def test_starts_that_break_the_model_are_left_out(kind: str, tmp_path: Path) -> None:
    """One of the solvers to start from overflows, the others do not."""
    stage: list[str] = []
    count = 0

    def breaks(x: Tensor, sigma: Tensor) -> Tensor:
        nonlocal count
        count += stage[-1:] == ["search"]
        return torch.full_like(x, math.inf) if stage[-1:] == ["search"] and count < 10 else EXACT(x, sigma)

    found = fit(kind, breaks, progress=lambda name, done, total: stage.append(name))
    assert count > 10
    assert found.report.error_distilled < found.report.error_base
    sound(found, EXACT, tmp_path)


@pytest.mark.parametrize("kind", ["balanced", "best"])
def test_if_no_start_works_it_is_an_error(kind: str) -> None:
    stage: list[str] = []

    def breaks(x: Tensor, sigma: Tensor) -> Tensor:
        return torch.full_like(x, math.inf) if stage[-1:] == ["search"] else EXACT(x, sigma)

    with pytest.raises(ModelError, match="NaN or infinity"):
        fit(kind, breaks, progress=lambda name, done, total: stage.append(name))


def test_the_same_noise_level_twice() -> None:
    with pytest.raises(GridError, match="strictly descending"):
        distill(EXACT, noise() * HIGH, [10.0, 5.0, 5.0, 0.0])


@pytest.mark.parametrize("kind", FITS)
def test_noise_in_half_precision(kind: str, tmp_path: Path) -> None:
    found = fit(kind, lambda x, sigma: EXACT(x.float(), sigma.float()).half(), noise().half())
    sound(found, EXACT, tmp_path)


def test_a_start_just_above_the_models_highest_noise_level() -> None:
    """Schedules in float32 start a rounding error above it."""
    options = {"solvers": ("dpmpp_2m",), "teacher": Teacher("euler", substeps=3), "mode": Freedom(rounds=1)}
    grids = [schedule("karras", 4, LOW, HIGH * (1 + 1e-7))]
    (found,) = distill_students(EXACT, noise(), evaluations=[4], sigma_range=(LOW, HIGH), grids=lambda _: grids, **options)
    assert found.report.error_distilled < found.report.error_base
