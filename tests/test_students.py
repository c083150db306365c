"""The end-point fit: exact models whose solution is known, and what must hold whatever the model."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dode import distill_students
from dode.correction import Parameters
from dode.demo.mixture import ring
from dode.endpoint import SKETCH, Targets, sketch
from dode.errors import FitError, ModelError
from dode.metered import Metered
from dode.numbers import Freedom, Numbers
from dode.refine import _broyden as broyden  # pyright: ignore[reportPrivateUsage]
from dode.refine import refine, robust_mean, stray_limit, stray_weights
from dode.sampling import Guided, sample
from dode.students import _varied as varied  # pyright: ignore[reportPrivateUsage]
from dode.students import rounds, usual_grids
from dode.tableau import check_sigmas
from dode.teacher import Teacher

RANGE = {"log_sigma": (0.02, 20.0), "flow": (0.001, 1.0)}
FREEDOM = Freedom(starts=2, iterations=2)


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
    numbers = Numbers(start, Freedom(taps=2, guidance=2, model_sigmas=True), True, (0.02, 20.0))
    offsets = np.random.default_rng(0).normal(size=len(numbers.names)) * 0.05
    offsets[[name == ("sigma", 0, 0) for name in numbers.names]] = -0.1
    unit = noise(6)
    ends = torch.zeros_like(unit)
    model = Metered(guided, None, torch.device("cpu"), None)
    model.enter("refine", 0)
    targets = Targets(unit, lambda z, sigma: z * sigma, ends, (0.02, 20.0), list(torch.arange(6).split(4)), [0])
    found = targets.derivatives(model, numbers, offsets)

    def end(at: np.ndarray) -> Tensor:
        parameters = numbers.parameters(at)
        assert parameters is not None
        return sample(guided, unit * parameters.sigmas[0], parameters.tableau())

    columns = []
    for p in range(len(offsets)):
        _, h = numbers.nudge(offsets, p)
        columns.append((end(offsets + h * np.eye(len(offsets))[p]) - end(offsets)) / h)
    np.testing.assert_allclose(found, torch.stack(columns, dim=1), rtol=1e-9, atol=1e-12)


def test_a_corrected_derivative_explains_the_step_and_changes_nothing_across_it() -> None:
    generator = torch.Generator().manual_seed(0)
    slopes = torch.randn(3, 5, 7, generator=generator, dtype=torch.float64)
    step, change = np.array([0.1, -0.3, 0.0, 0.2, 0.05]), torch.randn(3, 7, generator=generator, dtype=torch.float64)
    gram = np.diag([1.0, 4.0, 2.0, 3.0, 1.0, 9.0])
    before = slopes.clone()
    broyden(slopes, step, change, gram)
    np.testing.assert_allclose(torch.einsum("npm,p->nm", slopes, torch.from_numpy(step)), change, atol=1e-12)
    across = np.array([0.3, 0.0, 1.0, 0.0, -0.6])  # orthogonal to the step in the metric of the derivatives' lengths
    assert abs(across @ gram[:-1, :-1] @ step) < 1e-12
    found, was = (torch.einsum("npm,p->nm", s, torch.from_numpy(across)) for s in (slopes, before))
    np.testing.assert_allclose(found, was, atol=1e-12)


def test_a_sketch_keeps_small_samples_and_the_lengths_of_large_ones() -> None:
    small, large = torch.randn(2, 3, 8, 8), torch.randn(4, 4, 128, 128)
    assert torch.equal(sketch(small), small.flatten(1))
    assert sketch(large).shape == (4, SKETCH)
    ratio = sketch(large).square().sum(1) / large.flatten(1).square().sum(1)
    assert (ratio - 1).abs().max() < 0.1
    np.testing.assert_allclose(sketch(large[:2] - large[2:]), sketch(large[:2]) - sketch(large[2:]), atol=1e-4)


def test_a_noise_level_at_its_upper_bound_stays_there_and_the_others_are_solved_for() -> None:
    start = Parameters("euler", 1, "data", (1.0, 0.6, 0.3, 0.0), np.zeros((3, 1)), "flow")
    numbers = Numbers(start, Freedom(taps=0), False, (0.001, 1.0))
    kinds = [(kind, i) for kind, i, _ in numbers.names]
    count = len(kinds)
    gram = np.eye(count + 1)
    gram[:-1, -1] = gram[-1, :-1] = 0.02  # every number wants to go up
    step = numbers.step(gram, np.zeros(count), 0.0, 1e-9)
    for at_bound in (("sigma", 0), ("told", 0)):
        assert step[kinds.index(at_bound)] == 0
    assert all(step[p] > 0.01 for p, kind in enumerate(kinds) if kind not in (("sigma", 0), ("told", 0)))
    numbers = Numbers(start, Freedom(taps=0), False, (0.3, 1.0))
    gram[:-1, -1] = gram[-1, :-1] = -0.02  # and now down
    step = numbers.step(gram, np.zeros(count), 0.0, 1e-9)
    for at_bound in (("sigma", 2), ("told", 2)):
        assert step[kinds.index(at_bound)] == 0
    assert all(step[p] < -0.01 for p, kind in enumerate(kinds) if kind not in (("sigma", 2), ("told", 2)))


def test_a_step_in_which_every_number_meets_its_bound_ends_there() -> None:
    start = Parameters("euler", 1, "data", (1.0, 0.6, 0.3, 0.0), np.zeros((3, 1)), "flow")
    numbers = Numbers(start, Freedom(taps=0, grid=False), False, (0.001, 1.0))
    count = len(numbers.names)
    gram = np.eye(count + 1)
    gram[:-1, -1] = gram[-1, :-1] = 10.0
    step = numbers.step(gram, np.zeros(count), 0.0, 1e-9)
    moved = numbers.parameters(step)
    assert moved is not None
    assert moved.model_sigmas is not None
    assert max(moved.model_sigmas) == pytest.approx(1.0)


def test_strays_weigh_little_and_all_others_as_they_are() -> None:
    errors = np.array([1.0, 4.0, 1.0, 2.0, 100.0])
    limit = stray_limit(errors)
    assert limit == pytest.approx(2 * np.sqrt(2))
    assert robust_mean(errors[:4], limit) == pytest.approx(2.0)
    assert robust_mean(errors, limit) == pytest.approx((8 + 2 * limit * 10 - limit**2) / 5)
    np.testing.assert_allclose(stray_weights(errors, limit), [1, 1, 1, 1, limit / 10])
    broken = np.full(4, np.inf)
    assert robust_mean(broken, stray_limit(broken)) == np.inf


def test_with_many_samples_strays_weigh_more() -> None:
    errors = np.array([1.0, 4.0, 1.0, 2.0, 2.0, 2.0, 100.0, 2.0])
    few, many = np.tile(errors, 8), np.tile(errors, 32)
    assert stray_limit(few) == pytest.approx(stray_limit(errors))
    assert stray_limit(many) == pytest.approx(2 * stray_limit(few))
    assert robust_mean(many, stray_limit(many)) > robust_mean(few, stray_limit(few))


def test_fits_set_out_from_each_schedule_with_the_solvers_in_turn() -> None:
    def start(method: str, last: float) -> Parameters:
        order = 1 if method == "euler" else 2
        return Parameters(method, order, "data", (10.0, 1.0, last, 0.0), np.zeros((3, 1)))

    ranked = [start("ipndm", 0.1), start("ipndm", 0.2), start("euler", 0.1), start("ipndm", 0.3), start("euler", 0.3)]
    assert varied(ranked) == [ranked[0], ranked[4], ranked[1]]


def test_schedules_to_start_from_end_early_or_begin_with_a_long_step() -> None:
    grids = []
    for steps in (1, 2, 3, 8):
        grids = usual_grids(steps, 0.02, 80.0, flow=False)
        assert all(len(check_sigmas(grid)) == steps + 1 and grid[0] == 80 and grid[-1] == 0 for grid in grids)
    lowest = {round(float(grid[-2]), 3) for grid in grids}
    assert len(lowest) == 4
    assert min(lowest) == 0.02
    first_steps = [float(np.log(grid[0] / grid[1]) / np.log(grid[1] / grid[2])) for grid in grids]
    assert sum(ratio > 2 for ratio in first_steps) >= 2


def test_with_many_samples_more_fits_set_out_on_part_of_them() -> None:
    freedom = Freedom()
    assert rounds(freedom, 32, 4) == (6, 16, 2, 32, 1, 0)
    assert rounds(freedom, 8, 4) == (2, 4, 2, 8, 1, 0)
    assert rounds(freedom, 256, 4) == (12, 16, 16, 32, 2, 1)
    assert rounds(freedom, 256, 8) == (6, 16, 8, 32, 2, 1)
    assert rounds(Freedom(finalists=1), 256, 8) == (0, 0, 1, 256, 2, 0)
    seen: list[int] = []

    def watched(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append(len(x))
        return ring()(x, sigma)

    (found,) = fit(watched, 48, micro_batch=48, mode=Freedom(starts=2, iterations=1))
    assert found.report.error_distilled < 0.8 * found.report.error_base
    assert seen.count(32) > 50  # the fits on part of the samples
    assert seen.count(48) > 50  # and the one on all of them


def test_micro_batches_do_not_change_the_result() -> None:
    one, other = (fit(guided, 16, micro_batch=size)[0].parameters for size in (16, 3))
    np.testing.assert_allclose(one.sigmas, other.sigmas, rtol=1e-9)
    np.testing.assert_allclose(one.values, other.values, atol=1e-9)


def test_a_fit_goes_on_from_another() -> None:
    first = fit(guided, 32, mode=Freedom(starts=2, iterations=4))[0]
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
    assert all(r.report.model_evaluations["teacher"] == 55 * 16 for r in results)


def test_neither_teacher_nor_student_goes_below_the_models_lowest_noise_level() -> None:
    told: list[float] = []

    def watched(x: Tensor, sigma: Tensor) -> Tensor:
        told.append(float(sigma.min()))
        return ring(deviation=0.2)(x, sigma)

    settings: dict[str, Any] = {"evaluations": [5], "sigma_range": (0.3, 20.0), "solvers": ("ipndm",), "mode": FREEDOM}
    (found,) = distill_students(watched, noise(16), **settings)
    assert min(told) >= 0.3 * (1 - 1e-9)
    assert found.report.error_distilled < found.report.error_base


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
    targets = Targets(unit, lambda z, sigma: z * sigma, ends, (0.02, 20.0), [torch.arange(8)], [0, 1])
    parameters, errors = refine(model, targets, start, FREEDOM)
    assert parameters == start
    assert errors[:2].max() < 1e-20
    unjudged, _ = refine(model, targets, start, FREEDOM, judged=False)
    assert unjudged != start


def test_no_point_is_kept_above_the_ceiling() -> None:
    unit = noise(32)
    model = Metered(ring(), None, torch.device("cpu"), None)
    start = Parameters("euler", 1, "data", (20.0, 2.0, 0.3, 0.0), np.zeros((3, 1)))
    fine = Teacher("ipndm", 4, 40).tableau(np.array(start.sigmas))
    ends = sample(ring(), unit * 20.0, fine)
    targets = Targets(unit, lambda z, sigma: z * sigma, ends, (0.02, 20.0), [torch.arange(32)], list(range(8)))
    parameters, errors = refine(model, targets, start, FREEDOM)
    reached = float(np.sqrt(errors[:8].mean()))
    assert parameters != start
    assert refine(model, targets, start, FREEDOM, ceiling=0.99 * reached)[0] != parameters
    assert refine(model, targets, start, FREEDOM, ceiling=0.0)[0] == start


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
