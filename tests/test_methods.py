"""Every registered solver on the exact model: it converges to the true solution at the order it declares."""

import numpy as np
import pytest
import torch

from dode import METHODS, build_tableau, sample
from dode.demo.mixture import GaussianMixture
from tests.exact import solve

ALL = [(name, order) for name, method in METHODS.items() for order in method.convergence]
STEPS = (330, 660)  # multiples of 3, so that dpm_fast ends alike


def smooth_grid(steps: int, flow: bool) -> np.ndarray:
    """A grid that is the image of a uniform one under a smooth map, as the declared orders assume."""
    high, low = (0.9, 0.1) if flow else (6.0, 0.3)
    return (high**0.5 + np.linspace(0, 1, steps + 1) * (low**0.5 - high**0.5)) ** 2


@pytest.mark.parametrize(("name", "order"), ALL)
def test_observed_order_is_the_declared_one(name: str, order: int, model: GaussianMixture) -> None:
    high, low = smooth_grid(1, model.flow)[[0, -1]]
    x = torch.randn(16, 4, dtype=torch.float64) * high
    truth = solve(model, x, high, low)
    where = "flow" if model.flow else "log_sigma"
    errors = [
        float((sample(model, x, build_tableau(name, smooth_grid(n, model.flow), order, where)) - truth).norm()) for n in STEPS
    ]
    declared, observed = METHODS[name].convergence[order], np.log2(errors[0] / errors[1])
    # Sharp from below. Not from above: where start-up steps set the asymptotic order, a method looks better before it.
    assert declared - 0.2 < observed < declared + 1.1, errors


@pytest.mark.parametrize(("name", "order"), ALL)
def test_weights_are_computed_in_double_precision(name: str, order: int) -> None:
    """The table of a float32 schedule is the table of the same numbers in float64."""
    grid = torch.tensor([9.0, 3.1, 0.7, 0.11], dtype=torch.float32)
    assert build_tableau(name, grid.tolist(), order) == build_tableau(name, grid.double().numpy(), order)
