"""The end-point fit: exact models whose solution is known, and what must hold whatever the model."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dode import distill_students
from dode.correction import Parameters
from dode.demo.mixture import ring
from dode.errors import FitError, ModelError
from dode.metered import Metered
from dode.refine import Freedom, Numbers, Targets, refine
from dode.refine import _grams as grams  # pyright: ignore[reportPrivateUsage]
from dode.sampling import Guided, sample
from dode.students import usual_grids
from dode.teacher import Teacher

RANGE = {"log_sigma": (0.02, 20.0), "flow": (0.001, 1.0)}
FREEDOM = Freedom(iterations=3, model_sigmas=True)


def noise(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def guided(x: Tensor, sigma: Tensor) -> Guided:
    """Guidance 2 towards the later components of the ring."""
    model = ring()
    conditional, null = model(x, sigma, tilt=0.5), model(x, sigma)
    return Guided(null + 2 * (conditional - null), conditional - null)


def fit(denoiser: Any, count: int = 32, evaluations: tuple[int, ...] = (5,), coordinate: str = "log_sigma", **more: Any) -> Any:
    settings = {"mode": FREEDOM, "solvers": ("ipndm",), **more}
    return distill_students(
        denoiser, noise(count), evaluations=evaluations, sigma_range=RANGE[coordinate], coordinate=coordinate, **settings
    )


def error(denoiser: Any, parameters: Parameters, coordinate: str = "log_sigma", strength: float = 1.0) -> float:
    """RMS distance to the solution from fresh noise."""
    low, high = RANGE[coordinate]
    grid = usual_grids(10, low, high, coordinate == "flow")[1]
    fresh = noise(200, 1)
    fine = Teacher("ipndm", 4, 40, coordinate).tableau(grid)
    exact = sample(denoiser, fresh * high, fine)
    found = sample(denoiser, fresh * parameters.sigmas[0], parameters.tableau(strength=strength))
    return float((found - exact).square().mean().sqrt())


@pytest.mark.parametrize("coordinate", ["log_sigma", "flow"])
def test_the_fit_beats_its_start_on_fresh_noise(coordinate: str) -> None:
    model = ring(deviation=0.5, flow=coordinate == "flow")
    result = fit(model, 64, coordinate=coordinate)[0]
    assert result.parameters.tableau().evaluations == 5
    assert result.report.error_distilled < 0.7 * result.report.error_base
    start = distill_students(
        model,
        noise(64),
        evaluations=[5],
        sigma_range=RANGE[coordinate],
        coordinate=coordinate,
        mode=Freedom(iterations=0),
        solvers=("ipndm",),
    )[0]
    assert not start.parameters.values.any()
    assert error(model, result.parameters, coordinate) < 0.8 * error(model, start.parameters, coordinate)


def test_the_guidance_channel_is_used_where_the_model_gives_it() -> None:
    with_channel = fit(guided, 64)[0]
    assert with_channel.parameters.guidance is not None
    assert with_channel.parameters.guidance.any()
    without = fit(lambda x, sigma: guided(x, sigma).denoised, 64)[0]
    assert without.parameters.guidance is None
    with pytest.raises(ModelError, match="only one of them"):
        sample(ring(), noise(2), with_channel.parameters.tableau())


def test_derivatives_that_reuse_the_prefix_are_those_of_whole_runs() -> None:
    start = Parameters("dpmpp_2m", 2, "data", (20.0, 5.0, 1.5, 0.4, 0.0), np.zeros((4, 1)))
    numbers = Numbers(start, Freedom(taps=2, guidance=2, model_sigmas=True), guided=True)
    offsets = np.random.default_rng(0).normal(size=len(numbers.names)) * 0.05
    offsets[[name == ("sigma", 0, 0) for name in numbers.names]] = -0.1
    unit = noise(6)
    ends = torch.zeros_like(unit)
    model = Metered(guided, None, torch.device("cpu"), None)
    model.enter("refine", 0)
    targets = Targets(unit, lambda z, sigma: z * sigma, ends, 20.0, list(torch.arange(6).split(4)), [0])
    found = grams(model, targets, numbers, offsets)

    def end(at: np.ndarray) -> Tensor:
        parameters = numbers.parameters(at)
        assert parameters is not None
        return sample(guided, unit * parameters.sigmas[0], parameters.tableau())

    columns = [(end(offsets + h * e) - end(offsets)) / h for h, e in zip(numbers.steps, np.eye(len(offsets)), strict=True)]
    stacked = torch.stack([*columns, ends - end(offsets)], dim=1)
    np.testing.assert_allclose(found, (stacked @ stacked.mT).numpy(), rtol=1e-9, atol=1e-12)


def test_micro_batches_do_not_change_the_result() -> None:
    one, other = (fit(guided, 16, micro_batch=size)[0].parameters for size in (16, 3))
    np.testing.assert_allclose(one.sigmas, other.sigmas, rtol=1e-9)
    np.testing.assert_allclose(one.values, other.values, atol=1e-9)


def test_a_fit_goes_on_from_another() -> None:
    first = fit(guided, 32, mode=Freedom(iterations=4, model_sigmas=True))[0]
    second = fit(guided, 32, continued=[first.parameters], mode=Freedom(iterations=0))[0]
    for name in ("sigmas", "values", "guidance", "model_sigmas"):
        np.testing.assert_array_equal(getattr(first.parameters, name), getattr(second.parameters, name))
    third = fit(guided, 32, continued=[first.parameters], mode=FREEDOM)[0]
    assert third.report.error_distilled <= first.report.error_distilled
    with pytest.raises(FitError, match="in their order"):
        fit(guided, 8, (4,), continued=[first.parameters])


def test_one_teacher_run_serves_all_step_counts() -> None:
    teacher = Teacher("ipndm", 4, 6)
    results = fit(ring(), 16, (3, 4, 6), teacher=teacher)
    assert [r.parameters.tableau().evaluations for r in results] == [3, 4, 6]
    assert all(r.report.model_evaluations["teacher"] == 60 * 16 for r in results)


def test_the_teacher_takes_more_steps_where_it_needs_them() -> None:
    rough = fit(ring(deviation=0.05, flow=True), 16, coordinate="flow", mode=Freedom(iterations=0))[0].report
    smooth = fit(ring(deviation=0.8), 16, mode=Freedom(iterations=0))[0].report
    assert rough.teacher.substeps > smooth.teacher.substeps


@pytest.mark.parametrize("model", [lambda x, sigma: 0.3 * torch.ones_like(x), lambda x, sigma: x / (1 + sigma[:, None] ** 2)])
def test_constant_and_linear_models_leave_nothing_broken(model: Any) -> None:
    result = fit(model, 16)[0]
    assert np.isfinite(result.parameters.values).all()
    assert result.report.error_distilled <= result.report.error_base


def test_nothing_is_kept_that_does_not_help_the_held_out_samples() -> None:
    unit, ends = noise(8), noise(8, 5)
    model = Metered(ring(), None, torch.device("cpu"), None)
    start = Parameters("euler", 1, "data", (20.0, 2.0, 0.3, 0.0), np.zeros((3, 1)))
    ends[:2] = sample(ring(), unit[:2] * 20.0, start.tableau())  # the held-out samples ask for no change at all
    targets = Targets(unit, lambda z, sigma: z * sigma, ends, 20.0, [torch.arange(8)], [0, 1])
    parameters, errors = refine(model, targets, start, FREEDOM)
    assert parameters == start
    assert errors[:2].max() < 1e-20


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"held_out": 2.0}, "held_out"),
        ({"micro_batch": 0}, "micro_batch"),
        ({"mode": "fastest"}, "Unknown mode"),
        ({"evaluations": (0,)}, "within 0 evaluations"),
    ],
)
def test_unusable_settings_are_refused(more: dict[str, Any], message: str) -> None:
    with pytest.raises(FitError, match=message):
        fit(ring(), 8, **more)


def test_nan_stops_the_fit() -> None:
    with pytest.raises(ModelError, match="NaN"):
        fit(lambda x, sigma: x * float("nan"), 8)
