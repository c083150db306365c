"""The fit: the closed form, what it must recover, what it must not depend on, and what it refuses."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dode import METHODS, Distillation, Parameters, Teacher, build_tableau, distill, distill_students, sample, schedule
from dode.correction import available_taps
from dode.demo.mixture import GaussianMixture, ring
from dode.errors import FitError, ModelError
from dode.fit.distill import planned_evaluations
from dode.fit.free_parameters import Freedom
from dode.fit.held_out import split
from dode.fit.least_squares import solve_normal_equations
from dode.tableau import PREDICTIONS, Tableau
from dode.teacher import nested_grid

SIGMAS = schedule("karras", 6, 0.02, 20.0)
FLOW_SIGMAS = schedule("linear", 6, 0.001, 1.0)


def start(count: int = 48, sigma: float = 20.0, seed: int = 0) -> Tensor:
    return torch.randn(count, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * sigma


def grid_of(model: GaussianMixture) -> np.ndarray:
    return FLOW_SIGMAS if model.flow else SIGMAS


@dataclass(frozen=True)
class Known(Teacher):
    """A teacher that is itself a distilled student, so the right answer is known."""

    substeps: int = 1
    parameters: Parameters | None = None

    def tableau(self, sigmas: Any, sigma_min: float = 0.0) -> Tableau:
        assert self.parameters is not None
        return self.parameters.tableau()


@pytest.mark.parametrize("substeps", [1, 2, 7, 10])
@pytest.mark.parametrize("sigmas", [SIGMAS, SIGMAS[:-1], FLOW_SIGMAS, [5.0, 4.9, 0.1]])
def test_the_teachers_grid_contains_the_students(sigmas: Any, substeps: int) -> None:
    fine = nested_grid(sigmas, substeps)
    assert len(fine) == (len(sigmas) - 1) * substeps + 1
    assert fine[::substeps].tolist() == list(sigmas)
    assert (np.diff(fine) < 0).all()


@pytest.mark.parametrize("substeps", [1, 2, 7])
def test_the_teacher_does_not_go_below_the_models_lowest_noise_level(substeps: int) -> None:
    above, at = [5.0, 1.0, 0.3, 0.0], [5.0, 1.0, 0.03, 0.0]
    fine = nested_grid(above, substeps, 0.03)
    assert len(fine) == 3 * substeps + 1
    assert fine[::substeps].tolist() == above
    assert (np.diff(fine) < 0).all()
    if substeps > 1:
        assert fine[-2] == pytest.approx(0.03)
    fine = nested_grid(at, substeps, 0.03)
    assert len(fine) == 2 * substeps + 2
    assert fine[[0, substeps, 2 * substeps, -1]].tolist() == at
    assert nested_grid(at[:-1], substeps, 0.5).tolist() == nested_grid(at[:-1], substeps).tolist()


def test_no_stage_of_the_fit_evaluates_below_the_models_lowest_noise_level() -> None:
    told: list[float] = []

    def watched(x: Tensor, sigma: Tensor) -> Tensor:
        told.append(float(sigma.min()))
        return ring()(x, sigma)

    grid = schedule("karras", 5, 0.3, 20.0)
    found = distill(watched, start(16), grid, teacher=Teacher("heun", substeps=4), sigma_min=0.3)
    assert min(told) == pytest.approx(0.3)
    assert found.report.error_distilled < found.report.error_base
    assert found.report.model_evaluations["teacher"] == 16 * (2 * 4 * 4 + 1)
    told.clear()
    distill(watched, start(16), grid, teacher=Teacher("heun", substeps=4))
    assert min(told) < 0.1


def test_subdividing_a_karras_grid_gives_the_finer_karras_grid() -> None:
    fine = nested_grid(schedule("karras", 5, 0.1, 80.0)[:-1], 3)
    assert fine == pytest.approx(schedule("karras", 13, 0.1, 80.0)[:-1])


# A stock sampler that is not consistent has no "data" form.
FORMS = [(name, form) for name in METHODS for form in PREDICTIONS if form == "noise" or build_tableau(name, SIGMAS).consistent]


@pytest.mark.parametrize(("method", "directions"), FORMS)
def test_distilling_helps_on_noise_it_has_not_seen(model: GaussianMixture, method: str, directions: Any) -> None:
    sigmas = grid_of(model)
    found = distill(model, start(sigma=sigmas[0]), sigmas, method=method, directions=directions)
    report, parameters = found.report, found.parameters
    assert report.error_distilled <= report.error_base
    x = start(256, sigmas[0], seed=1)
    target = sample(model, x, report.teacher.tableau(parameters.base().levels))
    base, ours = (float((sample(model, x, t) - target).norm()) for t in (parameters.base(), parameters.tableau()))
    print(f"{method} {directions}: {base:.4f} -> {ours:.4f}")
    # k-diffusion's LMS extrapolates to σ = 0 with order 4, and there the guard may keep nothing.
    assert ours < base or (method == "lms_k_diffusion" and ours == base)


@pytest.mark.parametrize("method", ["euler", "heun", "ipndm"])
def test_micro_batches_do_not_change_the_result(model: GaussianMixture, method: str) -> None:
    sigmas = grid_of(model)
    results = [
        distill(model, start(sigma=sigmas[0]), sigmas, method=method, taps=2, micro_batch=size) for size in (48, 16, 7, 1)
    ]
    for other in results[1:]:
        assert np.abs(other.parameters.values - results[0].parameters.values).max() < 1e-10
        assert other.report.error_distilled == pytest.approx(results[0].report.error_distilled, rel=1e-12)


# A stage that is not a step's result is not on the table's own trajectory, so a correction of it is due.
EVERY_ROW_IS_A_STEP = [name for name in METHODS if all(row.commit for row in build_tableau(name, SIGMAS).rows)]


@pytest.mark.parametrize("method", EVERY_ROW_IS_A_STEP)
def test_a_teacher_equal_to_the_student_leaves_nothing_to_correct(method: str) -> None:
    rows = len(build_tableau(method, SIGMAS).rows)
    entry = METHODS[method]
    plain = Parameters(method, entry.default_order, entry.directions, tuple(SIGMAS), np.zeros((rows, 1)))
    found = distill(ring(), start(), SIGMAS, method=method, teacher=Known(parameters=plain))
    assert np.abs(found.parameters.values).max() < 1e-9


@pytest.mark.parametrize("directions", ["data", "noise", "slopes"])
@pytest.mark.parametrize("taps", [1, 2])
@pytest.mark.parametrize("method", ["euler", "dpmpp_2m", "ipndm"])
def test_known_parameters_are_recovered(method: str, taps: int, directions: Any) -> None:
    base = build_tableau(method, SIGMAS)
    values = np.random.default_rng(1).uniform(0.1, 0.4, (len(base.rows), taps))
    values[np.arange(taps)[None, :] >= available_taps(base)[:, None]] = 0
    known = Parameters(method, METHODS[method].default_order, directions, tuple(SIGMAS), values)
    found = distill(ring(), start(), SIGMAS, method=method, directions=directions, taps=taps, teacher=Known(parameters=known))
    assert np.abs(found.parameters.values - values).max() < 1e-7
    assert found.report.error_distilled < 1e-8 < found.report.error_base


def test_the_closed_form_is_what_an_optimiser_finds() -> None:
    """λ of the second row by L-BFGS through the sampler, on the fitted samples: no normal equations, no Gram matrix."""
    x, sigmas = start(), SIGMAS[:3]
    found = distill(ring(), x, sigmas, guard=False)
    target = sample(ring(), x, found.report.teacher.tableau(sigmas))
    order = torch.randperm(48, generator=torch.Generator().manual_seed(0))
    fitted = order[12:]
    first = ring()(x, torch.full((48,), sigmas[0], dtype=torch.float64))
    middle = x + (sigmas[1] - sigmas[0]) * (x - first) / sigmas[0]
    second = ring()(middle, torch.full((48,), sigmas[1], dtype=torch.float64))
    ratio = sigmas[2] / sigmas[1]
    value = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [value], max_iter=200, tolerance_grad=1e-14, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        y = ratio * middle + (1 - ratio) * (second + value * (second - first))
        loss = (y - target)[fitted].square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    assert found.parameters.values[1, 0] == pytest.approx(float(value.detach()), abs=1e-9)


def test_least_squares_agrees_with_lapack_and_survives_degenerate_directions() -> None:
    generator = np.random.default_rng(0)
    directions, residual = generator.standard_normal((40, 3)), generator.standard_normal(40)
    directions[:, 1] *= 1e-6

    def solve(d: np.ndarray, ridge: float = 0.0) -> np.ndarray:
        return solve_normal_equations(d.T @ d, d.T @ residual, ridge)

    expected = np.linalg.lstsq(directions, residual, rcond=None)[0]
    assert solve(directions) == pytest.approx(expected, rel=1e-9)
    assert np.abs(solve(directions, 1e3)).max() < 1e-2 * np.abs(expected).max()
    parallel = np.stack([directions[:, 0], 2 * directions[:, 0], 0 * directions[:, 0]], axis=1)
    found = solve(parallel)
    assert np.isfinite(found).all()
    assert found[2] == 0
    one = solve(directions[:, :1])[0]
    assert found[0] + 2 * found[1] == pytest.approx(one, rel=1e-9)


def test_the_guard_never_leaves_a_sampler_worse_than_its_base() -> None:
    """Eight samples in many dimensions with sixteen taps fit noise; without the guard the held-out error may grow."""
    worse = 0
    for seed in range(8):
        options: dict[str, Any] = {"taps": 5, "method": "ipndm", "held_out": 0.25, "seed": seed}
        x = start(4, seed=seed)
        free = distill(ring(), x, SIGMAS, guard=False, **options).report
        guarded = distill(ring(), x, SIGMAS, **options).report
        worse += free.error_distilled > free.error_base
        assert guarded.error_distilled <= guarded.error_base
    assert worse > 0, "this set-up no longer overfits, so it does not test the guard"


def test_reported_errors_are_those_of_the_sampler(model: GaussianMixture) -> None:
    sigmas = grid_of(model)
    x = start(sigma=sigmas[0])
    found = distill(model, x, sigmas, seed=3)
    held = torch.randperm(48, generator=torch.Generator().manual_seed(3))[:12]
    target = sample(model, x[held], found.report.teacher.tableau(sigmas))
    for table, error in (
        (found.parameters.base(), found.report.error_base),
        (found.parameters.tableau(), found.report.error_distilled),
    ):
        assert float((sample(model, x[held], table) - target).square().mean().sqrt()) == pytest.approx(error, rel=1e-9)
    assert found.report.step_errors_base[-1] == found.report.error_base
    assert (found.report.samples, found.report.held_out, found.report.seed) == (48, 12, 3)


@pytest.mark.parametrize("fit", ["distill", "distill_students"])
def test_whole_prompts_judge_where_there_are_enough(fit: str) -> None:
    """What judges does not change what is fitted: without the guard, parameters do not depend on the judges' trajectories."""
    groups = [i % 6 for i in range(48)]
    held, batches = split(48, 0.25, 16, 0, groups)
    judges = {groups[i] for i in held}
    assert (len(held), len(judges)) == (16, 2)  # a quarter of six, rounded: all of their samples, and nobody else's
    assert torch.cat(batches).tolist() == list(range(48))
    assert {groups[i] for i in split(48, 0.25, 16, 1, groups)[0]} != judges
    assert split(48, 0.25, 16, 0, [i % 3 for i in range(48)])[0] == split(48, 0.25, 16, 0)[0]
    x = start()
    broken = x.clone()
    broken[held] *= 1.5
    options: dict[str, Any] = {"groups": groups}
    if fit == "distill":
        options |= {"guard": False, "seed": 0}
        one, other = (distill(ring(), noise, SIGMAS, **options) for noise in (x, broken))
        np.testing.assert_array_equal(one.parameters.values, other.parameters.values)
        assert planned_evaluations(SIGMAS, samples=48, groups=groups) == one.report.model_evaluations
    else:
        options |= {"evaluations": (4,), "sigma_range": (0.02, 20.0), "mode": Freedom(rounds=0)}
        one, other = (distill_students(ring(), noise / SIGMAS[0], **options)[0] for noise in (x, broken))
    assert one.report.held_out == 16
    assert one.report.error_base != other.report.error_base


def test_every_evaluation_is_counted_and_reported() -> None:
    calls, seen = 0, []

    def denoise(y: Tensor, sigma: Tensor) -> Tensor:
        nonlocal calls
        calls += len(y)
        return ring()(y, sigma)

    found = distill(denoise, start(), SIGMAS, method="heun", progress=lambda *state: seen.append(state))
    assert sum(found.report.model_evaluations.values()) == calls
    assert list(dict.fromkeys(stage for stage, _, _ in seen)) == ["teacher", "student", "fit", "check"]
    assert all(0 <= done <= total for _, done, total in seen)
    assert {stage: max(d for s, d, _ in seen if s == stage) for stage in found.report.model_evaluations} == (
        found.report.model_evaluations
    )


def test_arguments_may_differ_by_sample() -> None:
    """Distilling two halves with arguments of their own is not distilling all with the arguments of one."""
    tilts = torch.linspace(-2, 2, 48)

    def denoise(y: Tensor, sigma: Tensor, tilt: Tensor) -> Tensor:
        return torch.cat([ring()(y[i : i + 1], sigma[i : i + 1], float(t)) for i, t in enumerate(tilt)])

    def fitted(micro_batch: int) -> Distillation:
        return distill(denoise, start(), SIGMAS, extra_args=lambda samples: {"tilt": tilts[samples]}, micro_batch=micro_batch)

    assert np.abs(fitted(48).parameters.values - fitted(5).parameters.values).max() < 1e-10
    same = distill(denoise, start(), SIGMAS, extra_args=lambda samples: {"tilt": torch.zeros(len(samples))})
    assert np.abs(fitted(16).parameters.values - same.parameters.values).max() > 1e-3


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"taps": 0}, "taps"),
        ({"taps": 99}, "taps"),
        ({"ridge": -1.0}, "ridge"),
        ({"held_out": 0.0}, "held_out"),
        ({"held_out": 1.5}, "held_out"),
        ({"groups": [0, 1, 2]}, "groups"),
        ({"micro_batch": 0}, "micro_batch"),
        ({"directions": "velocity"}, "directions"),
        ({"teacher": Teacher(substeps=0)}, "substeps"),
        ({"teacher": Teacher(substeps=10_000)}, "substeps"),
        ({"x": start(1)}, "two samples"),
        ({"x": torch.zeros(4, 4, dtype=torch.int64)}, "floating-point"),
    ],
)
def test_unusable_settings_are_refused_with_the_reason(changes: dict[str, Any], says: str) -> None:
    arguments: dict[str, Any] = {"x": start(4), **changes}
    with pytest.raises(FitError, match=says):
        distill(ring(), arguments.pop("x"), SIGMAS, **arguments)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_model_that_returns_nan_stops_the_fit(bad: float) -> None:
    with pytest.raises(ModelError, match="NaN or infinity at sigma 20"):
        distill(lambda y, sigma: torch.full_like(y, bad), start(), SIGMAS)


def test_constant_and_linear_models_are_no_trouble() -> None:
    """Every solver is exact on a constant model, so there is nothing to gain; λ stays finite on both."""
    for model in (lambda y, sigma: torch.full_like(y, 0.5), lambda y, sigma: y / (1 + sigma[:, None] ** 2)):
        found = distill(model, start(), SIGMAS, taps=2)
        assert np.isfinite(found.parameters.values).all()
        assert found.report.error_distilled <= found.report.error_base


def test_inputs_are_not_modified() -> None:
    x, sigmas = start(8), SIGMAS.copy()
    before = x.clone()
    distill(ring(), x, sigmas, micro_batch=3)
    assert torch.equal(x, before)
    assert (sigmas == SIGMAS).all()
