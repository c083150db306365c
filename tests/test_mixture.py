"""The exact model and its exact solution, checked against what is known without either."""

import pytest
import torch

from dode.demo.mixture import GaussianMixture, ring
from tests.exact import solve


@pytest.mark.parametrize("flow", [False, True])
def test_one_gaussian_has_the_textbook_solution(flow: bool) -> None:
    mean, deviation = torch.tensor([[0.7, -0.2]], dtype=torch.float64), torch.tensor([0.3], dtype=torch.float64)
    model = GaussianMixture(mean, deviation, torch.ones(1, dtype=torch.float64), flow)
    start, end = (0.98, 0.05) if flow else (20.0, 0.05)

    def scale(sigma: float) -> tuple[float, float]:
        alpha = 1 - sigma if flow else 1.0
        return alpha, float((alpha**2 * deviation**2 + sigma**2).sqrt())

    x = torch.randn(4, 2, dtype=torch.float64) * start
    (a0, s0), (a1, s1) = scale(start), scale(end)
    expected = a1 * mean + s1 / s0 * (x - a0 * mean)
    assert (solve(model, x, start, end) - expected).abs().max() < 1e-10


@pytest.mark.parametrize("flow", [False, True])
def test_denoised_is_the_posterior_mean(flow: bool) -> None:
    """Against the mean of many true samples weighted by their likelihood: no formula in common."""
    model, sigma = ring(dimensions=2, flow=flow), 0.6
    component = torch.randint(5, (400_000,))
    clean = model.means[component] + 0.25 * torch.randn(400_000, 2, dtype=torch.float64)
    x = torch.tensor([[0.3, 0.4], [-0.5, 0.1]], dtype=torch.float64)
    alpha = 1 - sigma if flow else 1.0
    weight = (-((x[:, None] - alpha * clean).square().sum(-1)) / (2 * sigma**2)).softmax(1)
    estimate = weight @ clean
    assert (model(x, torch.full((2,), sigma)) - estimate).abs().max() < 0.01
