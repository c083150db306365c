"""The fit of all numbers at once: exact models whose solution is known, and what must hold whatever the model."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dode import distill_students
from dode.correction import Parameters, available_taps
from dode.demo.mixture import ring
from dode.errors import FitError, ModelError
from dode.fit.all_numbers import MODES
from dode.fit.derivatives import derivatives
from dode.fit.end_point import SKETCH, Start, Targets, sketch
from dode.fit.free_parameters import Freedom, FreeParameters
from dode.fit.gauss_newton import GaussNewton
from dode.fit.gauss_newton import _broyden as broyden  # pyright: ignore[reportPrivateUsage]
from dode.fit.model_calls import ModelCalls
from dode.fit.outliers import outlier_limit, outlier_weights, robust_mean
from dode.fit.plan import derivative_evaluations, parts, planned, usual_samples, within_share
from dode.fit.starts import SOLVERS, OnPath, setting_out, undistilled, usual_grids
from dode.fit.teacher_path import Recorder, TeacherPath
from dode.methods import build_tableau
from dode.sampling import Guided, sample
from dode.schedules import schedule
from dode.tableau import check_sigmas
from dode.teacher import Teacher

RANGE = {"log_sigma": (0.02, 20.0), "flow": (0.001, 1.0)}
START: Start = lambda noise, sigma: noise * sigma  # noqa: E731
FREEDOM = Freedom()


def noise(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def guided(x: Tensor, sigma: Tensor) -> Guided:
    """Guidance 2 towards the later components of the ring."""
    model = ring()
    conditional, null = model(x, sigma, tilt=0.5), model(x, sigma)
    return Guided(null + 2 * (conditional - null), conditional - null)


def eightfold(x: Tensor, sigma: Tensor) -> Guided:
    """Eight independent rings, 32 dimensions: as many directions as a fit wants."""
    parts = [guided(part, sigma) for part in x.split(4, dim=1)]
    return Guided(torch.cat([part.denoised for part in parts], 1), torch.cat([part.difference for part in parts], 1))


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
    result = fit(model, 64, coordinate=coordinate, mode=Freedom(starts=3, sparing=False, steps=10, again=1))[0]
    assert result.parameters.tableau().evaluations == 5
    assert result.report.error_distilled < 0.7 * result.report.error_base
    start = distill_students(
        model,
        noise(64),
        evaluations=[5],
        sigma_range=RANGE[coordinate],
        coordinate=coordinate,
        mode=Freedom(rounds=0),
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


@pytest.mark.parametrize("method", ["dpmpp_2m", "ipndm", "edm"])
def test_derivatives_are_those_of_whole_runs(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies in lock-step say what running each of them would. Four dimensions, so no direction is left out."""
    for name in ("_LENGTH", "_LEVEL"):
        monkeypatch.setattr(f"dode.fit.derivatives.{name}", 1e-6)
    grid = (20.0, 5.0, 1.5, 0.4, 0.0)
    start = Parameters(method, 2, "data", grid, np.zeros((len(build_tableau(method, grid, 2).rows), 1)))
    free = FreeParameters(start, Freedom(taps=2, guidance_taps=2, model_sigmas=True), True, (0.02, 20.0))
    free.steps = free.steps * 1e-4
    offsets = np.random.default_rng(0).normal(size=len(free.names)) * 0.03
    offsets[[name == ("sigma", 0, 0) for name in free.names]] = -0.1
    unit = noise(6)
    model = ModelCalls(guided, None, torch.device("cpu"), None)
    model.enter("refine", 0)
    targets = Targets(
        unit, lambda z, sigma: z * sigma, torch.zeros_like(unit), (0.02, 20.0), list(torch.arange(6).split(4)), [0]
    )
    ends, found = derivatives(targets, model, free, offsets)

    def end(at: np.ndarray) -> Tensor:
        parameters = free.parameters(at)
        assert parameters is not None
        return sample(guided, unit * parameters.sigmas[0], parameters.tableau())

    np.testing.assert_allclose(ends, end(offsets), rtol=1e-12)
    for p, one in enumerate(np.eye(len(offsets)) * 1e-6):
        exact = (end(offsets + one) - end(offsets - one)) / 2e-6
        assert (found[:, p] - exact).norm() < 1e-3 * exact.norm(), free.names[p]


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
    free = FreeParameters(start, Freedom(taps=0), False, (0.001, 1.0))
    kinds = [(kind, i) for kind, i, _ in free.names]
    count = len(kinds)
    gram = np.eye(count + 1)
    gram[:-1, -1] = gram[-1, :-1] = 0.02  # every number wants to go up
    step = free.step(gram, np.zeros(count), 0.0, 1e-9)
    for at_bound in (("sigma", 0), ("told", 0)):
        assert step[kinds.index(at_bound)] == 0
    assert all(step[p] > 0.01 for p, kind in enumerate(kinds) if kind not in (("sigma", 0), ("told", 0)))
    free = FreeParameters(start, Freedom(taps=0), False, (0.3, 1.0))
    gram[:-1, -1] = gram[-1, :-1] = -0.02  # and now down
    step = free.step(gram, np.zeros(count), 0.0, 1e-9)
    for at_bound in (("sigma", 2), ("told", 2)):
        assert step[kinds.index(at_bound)] == 0
    assert all(step[p] < -0.01 for p, kind in enumerate(kinds) if kind not in (("sigma", 2), ("told", 2)))


def test_a_step_in_which_every_number_meets_its_bound_ends_there() -> None:
    start = Parameters("euler", 1, "data", (1.0, 0.6, 0.3, 0.0), np.zeros((3, 1)), "flow")
    free = FreeParameters(start, Freedom(taps=0, grid=False), False, (0.001, 1.0))
    count = len(free.names)
    gram = np.eye(count + 1)
    gram[:-1, -1] = gram[-1, :-1] = 10.0
    step = free.step(gram, np.zeros(count), 0.0, 1e-9)
    moved = free.parameters(step)
    assert moved is not None
    assert moved.model_sigmas is not None
    assert max(moved.model_sigmas) == pytest.approx(1.0)


def test_outliers_weigh_little_and_all_others_as_they_are() -> None:
    errors = np.array([1.0, 4.0, 1.0, 2.0, 100.0])
    limit = outlier_limit(errors)
    assert limit == pytest.approx(2 * np.sqrt(2))
    assert robust_mean(errors[:4], limit) == pytest.approx(2.0)
    assert robust_mean(errors, limit) == pytest.approx((8 + 2 * limit * 10 - limit**2) / 5)
    np.testing.assert_allclose(outlier_weights(errors, limit), [1, 1, 1, 1, limit / 10])
    broken = np.full(4, np.inf)
    assert robust_mean(broken, outlier_limit(broken)) == np.inf


def test_with_many_samples_outliers_weigh_more() -> None:
    errors = np.array([1.0, 4.0, 1.0, 2.0, 2.0, 2.0, 100.0, 2.0])
    few, many = np.tile(errors, 8), np.tile(errors, 32)
    assert outlier_limit(few) == pytest.approx(outlier_limit(errors))
    assert outlier_limit(many) == pytest.approx(2 * outlier_limit(few))
    assert robust_mean(many, outlier_limit(many)) > robust_mean(few, outlier_limit(few))


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


def counted(denoiser: Any) -> tuple[Any, list[int]]:
    """A denoiser that notes the size of each batch it gets."""
    seen: list[int] = []

    def watched(x: Tensor, sigma: Tensor) -> Any:
        seen.append(len(x))
        return denoiser(x, sigma)

    return watched, seen


def test_samples_join_in_growing_rounds() -> None:
    assert parts(list(range(18)), 2) == [list(range(6)), list(range(6, 18))]
    assert parts(list(range(1)), 2) == [[0]]
    assert parts(list(range(6)), 0) == []
    assert [len(part) for part in parts(list(range(60)), 3)] == [10, 20, 30]


@pytest.mark.parametrize(("evaluations", "most"), [(4, 1500), (6, 2500), (8, 4000)])
def test_the_default_fit_keeps_to_its_budget(evaluations: int, most: int) -> None:
    """Guided evaluations of one student as Distill Sampler comes, with room for its comparison afterwards, and as planned."""
    watched, seen = counted(eightfold)
    samples = usual_samples(MODES["balanced"], evaluations, guided=True)
    (found,) = distill_students(
        watched, noise(8 * samples).reshape(samples, 32), evaluations=[evaluations], sigma_range=RANGE["log_sigma"]
    )
    spent = found.report.model_evaluations
    assert sum(spent.values()) == sum(seen)
    assert sum(seen) + 60 * evaluations / 2 <= most
    plan = planned(MODES["balanced"], samples, (evaluations,), guided=True)
    assert plan.keys() == spent.keys()
    assert 0.6 * sum(plan.values()) < sum(seen) < 1.2 * sum(plan.values())


def test_the_samples_that_a_fit_takes_by_itself_fill_its_budget() -> None:
    for name, most in (("balanced", lambda n: 450 * (n - 1)), ("best", lambda n: 18_000)):
        for n in (2, 4, 8, 20):
            for guided in (True, False):
                count = usual_samples(MODES[name], n, guided=guided)
                spent, more = (sum(planned(MODES[name], c, (n,), guided=guided).values()) for c in (count, count + 2))
                assert spent <= most(n) * (2 - guided) or count == 8
                assert more > most(n) * (2 - guided) or count == 96


def test_a_further_guidance_scale_costs_half() -> None:
    watched, seen = counted(guided)
    (first,) = fit(watched, 16, (4,), mode="balanced", solvers=SOLVERS)
    before = sum(seen)
    (second,) = fit(watched, 16, (4,), mode="balanced", solvers=SOLVERS, continued=[first.parameters])
    assert sum(seen) - before <= before / 2
    assert second.report.samples == 8
    assert second.report.error_distilled <= second.report.error_base


def test_a_further_student_keeps_to_its_share() -> None:
    watched, seen = counted(guided)
    found = fit(watched, 16, (4, 6, 8), mode="balanced", solvers=SOLVERS)
    for result, n in list(zip(found, (4, 6, 8), strict=True))[1:]:
        own = sum(count for stage, count in result.report.model_evaluations.items() if stage != "teacher")
        assert own <= 12 * n * 16
    taught = found[0].report.model_evaluations["teacher"]
    assert sum(seen) == taught + sum(
        count for result in found for stage, count in result.report.model_evaluations.items() if stage != "teacher"
    )
    assert len(within_share(list(range(12)), 16, 4, Freedom(), 8, True)) < 12


def test_derivatives_cost_what_the_plan_says() -> None:
    """Data of 32 dimensions, so that there are as many directions as the fit wants."""

    watched, seen = counted(eightfold)
    wide = noise(24).reshape(3, 32)
    grid = schedule("karras", 5, 0.02, 20.0)
    start = Parameters("dpmpp_2m", 2, "data", tuple(grid.tolist()), np.zeros((5, 1)))
    targets = Targets(wide, START, wide, (0.02, 20.0), [torch.arange(3)], [])
    for freedom in (Freedom(), Freedom(derivatives=3), Freedom(grid=False, start=False, model_sigmas=False)):
        seen.clear()
        model = ModelCalls(watched, None, torch.device("cpu"), None)
        model.enter("refine", 0)
        GaussNewton(model, targets, start, freedom, guided=True).add([0, 1, 2])
        assert sum(seen) == 3 * derivative_evaluations(freedom, 5, guided=True)
        assert model.totals["refine"] == sum(seen)


def test_fits_set_out_from_solvers_of_low_order() -> None:
    found = [Parameters("ipndm", order, "noise", (10.0, 1.0, 0.3, 0.0), np.zeros((3, 1))) for order in (4, 2, 3, 1)]
    assert [start.order for start in setting_out(found)] == [2, 1, 4, 3]


def test_a_fit_that_is_stopped_keeps_the_best_it_has_judged_like_any_other() -> None:
    """Wherever it is stopped: before the first result an error says so, and after it every result is honest."""
    watched, seen = counted(guided)
    whole = fit(watched, 16, (4,))[0]
    total = len(seen)
    kept = 0
    for after in range(1, total, total // 12):
        seen.clear()
        stop = lambda after=after: len(seen) >= after  # noqa: E731
        try:
            (found,) = fit(watched, 16, (4,), stop=stop)
        except FitError:
            assert kept == 0
            continue
        kept += 1
        held = list(found.judged.samples)
        own = sample(guided, noise(16)[held] * found.parameters.sigmas[0], found.parameters.tableau()) - found.judged.ends
        assert found.report.error_distilled == pytest.approx(float(own.square().mean().sqrt()), rel=1e-6)
        assert found.report.error_distilled <= found.report.error_base == pytest.approx(whole.report.error_base)
    assert kept > 4


def test_a_stop_between_students_keeps_those_that_are_done() -> None:
    watched, seen = counted(ring())
    fit(watched, 16, (3,))
    first = len(seen)
    seen.clear()
    found = fit(watched, 16, (3, 4, 5), stop=lambda: len(seen) > first)
    assert 1 <= len(found) < 3


def followed(model: Any, unit: Tensor, coordinate: str, substeps: int) -> tuple[TeacherPath, Tensor]:
    """A teacher's path for these samples, and where it ends."""
    flow = coordinate == "flow"
    coarse = schedule("cosine" if flow else "karras", 10, *RANGE[coordinate])
    fine = Teacher("ipndm", 3, substeps, coordinate).tableau(coarse, RANGE[coordinate][0])
    recorder = Recorder(sketch)
    ends = torch.cat(
        [sample(recorder.watch(model, torch.arange(len(part))), part * fine.sigma, fine) for part in unit.split(48)]
    )
    return recorder.path(ends, flow), ends


def test_the_path_of_a_linear_model_is_the_model_itself() -> None:
    """For normal data the estimate beside the path is exact, so it says where any solver ends, under guidance too."""
    c = 0.7

    def normal(x: Tensor, sigma: Tensor) -> Guided:
        denoised = x * (c / (c + sigma[:, None] ** 2))
        return Guided(denoised, 0.3 * denoised)

    unit = torch.randn(400, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    path, _ = followed(normal, unit, "log_sigma", 12)
    object.__setattr__(path, "_variance", c)  # it is estimated from the ends
    x = torch.randn(400, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64) * 2
    for sigma in (15.0, 1.234, 0.1):
        level = torch.full((400,), sigma, dtype=torch.float64)
        found = path.model(x, level)
        np.testing.assert_allclose(found, normal(x, level).denoised, atol=2e-3)
        np.testing.assert_array_equal(path.model(x, level), found)  # the second time from what is kept
    targets = Targets(unit, START, path.ends, (0.02, 20.0), [torch.arange(400)], [])
    on_path = OnPath(targets, range(400), path)
    for table in undistilled(4, SOLVERS, lambda n: usual_grids(n, 0.02, 20.0, False), "log_sigma"):
        real = (sample(normal, unit * table.sigma, table) - path.ends).square().mean(1)
        np.testing.assert_allclose(np.sqrt(on_path.errors(table)), np.sqrt(real.numpy()), atol=0.02)


def test_beside_a_flow_path_a_linear_model_is_exact_too() -> None:
    c = 0.7
    path = TeacherPath(np.array([0.9, 0.1]), torch.zeros(2, 2, 1), torch.zeros(2, 2, 1), torch.zeros(2, 1), True)
    object.__setattr__(path, "_variance", c)
    for sigma in (0.05, 0.5, 0.95):
        assert path.response(sigma) == pytest.approx(c * (1 - sigma) / (c * (1 - sigma) ** 2 + sigma**2))


@pytest.mark.parametrize("coordinate", ["log_sigma", "flow"])
def test_the_path_ranks_solvers_nearly_as_the_model_does(coordinate: str) -> None:
    flow = coordinate == "flow"
    model, (low, high) = ring(deviation=0.5, flow=flow), RANGE[coordinate]
    unit = noise(64)
    path, ends = followed(model, unit, coordinate, 3)
    pool = undistilled(5, SOLVERS, lambda n: usual_grids(n, low, high, flow), coordinate)
    real = {table: float((sample(model, unit * table.sigma, table) - ends).square().mean()) ** 0.5 for table in pool}
    ranked = OnPath(Targets(unit, START, ends, (low, high), [torch.arange(64)], [0]), range(64), path).ranked(pool)
    assert min(real[table] for table in ranked[:16]) < 1.35 * min(real.values())
    assert min(real.values()) < 0.5 * float(np.median(list(real.values())))


def test_micro_batches_do_not_change_the_result() -> None:
    one, other = (fit(guided, 16, micro_batch=size)[0].parameters for size in (16, 3))
    np.testing.assert_allclose(one.sigmas, other.sigmas, rtol=1e-9)
    np.testing.assert_allclose(one.values, other.values, atol=1e-9)


def test_a_fit_goes_on_from_another() -> None:
    first = fit(guided, 32)[0]
    second = fit(guided, 32, continued=[first.parameters], mode=Freedom(rounds=0))[0]
    for name in ("sigmas", "values", "guidance", "model_sigmas"):
        np.testing.assert_array_equal(getattr(first.parameters, name), getattr(second.parameters, name))
    third = fit(guided, 32, continued=[first.parameters], mode=FREEDOM)[0]
    assert third.report.error_distilled <= second.report.error_distilled
    with pytest.raises(FitError, match="in their order"):
        fit(guided, 8, (4,), continued=[first.parameters])


def test_a_fit_does_not_go_on_from_what_is_worse_than_its_own_starts() -> None:
    first = fit(guided, 32)[0].parameters
    bad = replace(first, values=np.where(np.arange(first.values.shape[1]) < available_taps(first.base())[:, None], 3.0, 0.0))
    found = fit(guided, 32, continued=[bad])[0]
    assert found.report.error_distilled < 0.7 * found.report.error_base


def test_one_teacher_run_serves_all_step_counts() -> None:
    teacher = Teacher("ipndm", 4, 6)
    results = fit(ring(), 16, (3, 4, 6), teacher=teacher)
    assert [r.parameters.tableau().evaluations for r in results] == [3, 4, 6]
    assert all(r.report.model_evaluations["teacher"] == 55 * 16 + 1 for r in results)  # one asks whether there is guidance


def test_neither_teacher_nor_student_goes_below_the_models_lowest_noise_level() -> None:
    told: list[float] = []

    def watched(x: Tensor, sigma: Tensor) -> Tensor:
        told.append(float(sigma.min()))
        return ring(deviation=0.2)(x, sigma)

    settings: dict[str, Any] = {"evaluations": [5], "sigma_range": (0.3, 20.0), "solvers": ("ipndm",), "mode": FREEDOM}
    (found,) = distill_students(watched, noise(16), **settings)
    assert min(told) >= 0.3 * (1 - 1e-9)
    assert found.report.error_distilled < found.report.error_base


def test_the_teacher_takes_more_steps_for_more_evaluations_and_where_the_model_is_not_guided() -> None:
    taken = {}
    for name, model in (("guided", guided), ("plain", ring())):
        for n in (4, 8):
            report = fit(model, 8, (n,), mode=Freedom(rounds=0))[0].report
            taken[name, n] = report.teacher.substeps
            assert 0 < report.teacher_error < report.error_base
    assert taken == {("guided", 4): 2, ("guided", 8): 3, ("plain", 4): 4, ("plain", 8): 6}


@pytest.mark.parametrize("model", [lambda x, sigma: 0.3 * torch.ones_like(x), lambda x, sigma: x / (1 + sigma[:, None] ** 2)])
def test_constant_and_linear_models_leave_nothing_broken(model: Any) -> None:
    result = fit(model, 16)[0]
    assert np.isfinite(result.parameters.values).all()
    assert result.report.error_distilled <= result.report.error_base


def test_nothing_is_kept_that_does_not_help_the_held_out_samples() -> None:
    """The samples that judge ask for no change: what the fitted ones want is refused, and the base comes back."""
    fitted = set(range(16)) - set(fit(ring(), 16, mode=Freedom(rounds=0))[0].judged.samples)

    def torn(x: Tensor, sigma: Tensor, samples: Tensor) -> Tensor:
        asks = torch.tensor([int(i) in fitted for i in samples])[:, None]
        linear = x / (1 + sigma[:, None] ** 2)
        return torch.where(asks, ring()(x, sigma), linear)

    (found,) = fit(torn, 16, extra_args=lambda samples: {"samples": samples}, solvers=("dpmpp_2m",))
    assert found.report.error_distilled <= found.report.error_base


def test_a_step_never_raises_the_loss_and_a_round_ends_where_nothing_is_gained() -> None:
    unit = noise(32)
    model = ModelCalls(ring(), None, torch.device("cpu"), None)
    model.enter("refine", 0)
    start = Parameters("euler", 1, "data", (20.0, 2.0, 0.3, 0.0), np.zeros((3, 1)))
    ends = sample(ring(), unit * 20.0, Teacher("ipndm", 4, 40).tableau(np.array(start.sigmas)))
    targets = Targets(unit, START, ends, (0.02, 20.0), [torch.arange(32)], [])
    walk = GaussNewton(model, targets, start, FREEDOM, guided=False)
    walk.round(list(range(8)), 0)
    losses = []
    for _ in range(20):
        assert walk.point is not None
        losses.append(walk.point.errors)
        walk.step()
    limits = [outlier_limit(errors) for errors in losses]
    for before, after, limit in zip(losses, losses[1:], limits, strict=False):
        assert robust_mean(after, limit) <= robust_mean(before, limit)
    assert np.median(losses[-1]) < 0.6 * np.median(losses[0])
    walk.round(list(range(8, 32)), 6)
    assert sorted(walk.samples) == list(range(32))
    moved = sample(ring(), unit[walk.samples] * walk.parameters.sigmas[0], walk.parameters.tableau())
    own = (moved - ends[walk.samples]).square().mean(1)
    assert walk.point is not None
    np.testing.assert_allclose(walk.point.errors, own, rtol=1e-9)


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


def test_calls_beside_the_path_show_how_the_output_follows_the_point() -> None:
    """A model with J = 0.9 at every level: the theory of normal data is corrected where calls were made, and only there."""
    levels = np.array([10.0, 5.0, 1.0, 0.1])
    points = torch.zeros(3, 4, 2, dtype=torch.float64)
    path = TeacherPath(levels, points, points, torch.randn(3, 2, dtype=torch.float64), False)
    y = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    calls = [(few, dict.fromkeys((5.0, 6.0), (y[few], 0.9 * y[few]))) for few in (torch.tensor([2, 0]), torch.tensor([1]))]
    learned = path.learned(calls)
    assert learned.response(5.5) == pytest.approx(0.9)
    assert learned.response(0.1) == path.response(0.1)
    assert path.response(5.5) < 0.2


@pytest.mark.parametrize("off", [lambda level: level < 1.0, lambda level: level > 5.0], ids=["at the end", "at the start"])
def test_guidance_for_a_part_of_the_trajectory(off: Any) -> None:
    """Zeros where it is off are as good as any difference; a denoiser that leaves it away there is told so."""

    def partly(x: Tensor, sigma: Tensor) -> Guided:
        both = guided(x, sigma)
        plain = ring()(x, sigma, tilt=0.5)
        return Guided(plain, torch.zeros_like(plain)) if off(float(sigma[0])) else both

    def left_away(x: Tensor, sigma: Tensor) -> Any:
        return partly(x, sigma).denoised if off(float(sigma[0])) else partly(x, sigma)

    report = fit(partly, 16)[0].report
    assert report.error_distilled < report.error_base
    if off(RANGE["log_sigma"][1]):  # begins with one output: a fit without the channel
        assert fit(left_away, 16)[0].parameters.guidance is None
    else:
        with pytest.raises(ModelError, match="both outputs of guidance at sigma 20 and one at sigma"):
            fit(left_away, 16)
