"""An exact model: the denoiser of a mixture of Gaussians in closed form.

Nothing is learned and nothing is approximate, so solvers can be checked against the true solution of the ODE. In the
variance-exploding dress a noisy sample is x0 + σ·n; in the flow-matching dress it is (1-σ)·x0 + σ·n.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class GaussianMixture:
    """A k-diffusion style denoiser of isotropic Gaussians.

    Attributes:
        means: (K, D).
        deviations: standard deviation of each component, (K,).
        weights: (K,), summing to 1.
        flow: the flow-matching dress instead of the variance-exploding one.
    """

    means: Tensor
    deviations: Tensor
    weights: Tensor
    flow: bool = False

    def __call__(self, x: Tensor, sigma: Tensor, tilt: float = 0.0) -> Tensor:
        """The posterior mean of x0 given x (B, D) at noise level sigma (B,); ``tilt`` reweights towards later components."""
        sigma = sigma.to(x)[:, None]
        alpha = 1 - sigma if self.flow else torch.ones_like(sigma)
        means, spread = self.means.to(x), self.deviations.to(x) ** 2
        variance = alpha**2 * spread + sigma**2  # (B, K)
        offset = x[:, None, :] - alpha[:, :, None] * means  # (B, K, D)
        log_weight = self.weights.to(x).log() + tilt * torch.arange(len(means)).to(x)
        log_posterior = log_weight - offset.square().sum(-1) / (2 * variance) - x.shape[1] / 2 * variance.log()
        gain = (alpha * spread / variance)[:, :, None]
        return (log_posterior.softmax(1)[:, :, None] * (means + gain * offset)).sum(1)


def ring(components: int = 5, dimensions: int = 4, deviation: float = 0.25, flow: bool = False) -> GaussianMixture:
    """A mixture whose means lie on a circle in a few dimensions."""
    angle = torch.arange(components, dtype=torch.float64) * (2 * math.pi / components)
    means = torch.stack([(angle * (1 + d // 2) + (d % 2) * math.pi / 2).cos() for d in range(dimensions)], dim=1)
    ones = torch.ones(components, dtype=torch.float64)
    return GaussianMixture(means, deviation * ones, ones / components, flow)
