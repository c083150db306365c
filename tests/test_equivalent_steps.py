"""How many plain steps a distilled sampler is worth, on the exact model."""

import numpy as np
import pytest
import torch

import dode
from dode.demo.mixture import GaussianMixture, ring
from dode.fit.equivalent_steps import MOST, StepsSaved, _fewest, steps_saved
from dode.fit.held_out import squares
from dode.schedules import schedule
from dode.teacher import Teacher
from tests.exact import solve

HIGH, LOW = 10.0, 0.1


def measured(model: GaussianMixture, parameters: dode.Parameters, method: str) -> tuple[StepsSaved, torch.Tensor]:
    noise = torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    found = steps_saved(
        model,
        noise,
        parameters,
        teacher=Teacher("heun", substeps=10),
        sigma_range=(LOW, HIGH),
        method=method,
        grid=lambda n: schedule("karras", n, LOW, HIGH).tolist(),
        start=lambda noise, sigma: noise * sigma,
        micro_batch=5,
    )
    return found, noise


def test_a_distilled_euler_is_worth_more_of_its_steps_and_the_count_is_the_least() -> None:
    model = ring()
    sigmas = schedule("karras", 6, LOW, HIGH)
    x = torch.randn(48, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * HIGH
    teacher = Teacher("heun", substeps=10)
    parameters = dode.distill(model, x, sigmas, method="euler", teacher=teacher, sigma_min=LOW).parameters
    found, noise = measured(model, parameters, "euler")
    assert found.samples == 12
    assert len(found.step_errors_base) == len(found.step_errors_distilled) == 6
    assert found.step_errors_distilled[-1] < found.step_errors_base[-1]
    assert found.steps is not None
    assert found.steps > 6
    # Counted again by hand: one step less is too few, and the reference is the ODE's solution down to the lowest noise level.
    exact = model(solve(model, noise * HIGH, HIGH, LOW), torch.full((len(noise),), LOW, dtype=torch.float64))

    def error(method: str | dode.Parameters, grid: list[float]) -> float:
        run = dode.make_sampler(method)(model, noise * grid[0], torch.tensor(grid, dtype=torch.float64))
        return float((squares(run - exact).sum() / exact.numel()) ** 0.5)

    goal = error(parameters, list(parameters.sigmas))
    assert abs(goal - found.step_errors_distilled[-1]) < 0.1 * goal
    grids = [schedule("karras", n, LOW, HIGH).tolist() for n in (found.steps - 1, found.steps)]
    assert error("euler", grids[0]) > goal * 0.9
    assert error("euler", grids[1]) < goal * 1.1
    assert abs(error("euler", grids[1]) - found.error) < 0.1 * found.error


@pytest.mark.parametrize("name", [name for name in dode.METHODS if name != "dpm_fast"])  # which ends above 0
def test_every_solver_can_be_compared(name: str) -> None:
    sigmas = schedule("karras", 6, LOW, HIGH)
    base = dode.build_tableau(name, sigmas)
    parameters = dode.Parameters(name, dode.METHODS[name].default_order, "noise", tuple(sigmas), np.zeros((len(base.rows), 1)))
    found, _ = measured(ring(), parameters, "dpmpp_2m")
    assert len(found.step_errors_base) == len(base.sigmas) - 1
    assert found.step_errors_base == found.step_errors_distilled
    assert found.step_errors_base[-1] > 0


def test_the_search_finds_the_first_that_is_close_enough() -> None:
    for goal_at in (1, 5, 6, 7, 11, 12, 13, 24, 39, MOST):
        steps, error = _fewest(lambda n: 1.0 / n, 1.0 / goal_at, 6)
        assert (steps, error) == (goal_at, 1.0 / goal_at)
    assert _fewest(lambda n: 1.0 / n, 1.0 / (MOST + 1), 6) == (None, 1.0 / MOST)
