"""The true solution of the probability-flow ODE for the exact model, by an integrator that shares nothing with ours."""

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from dode.sampling import Denoiser


def solve(model: Denoiser, x: Tensor, sigma_from: float, sigma_to: float, **extra: float) -> Tensor:
    """x (B, D) at sigma_from carried to sigma_to > 0: eighth-order Runge-Kutta in ln σ, tolerance 1e-12."""

    def slope(log_sigma: float, flat: np.ndarray) -> np.ndarray:
        y = torch.from_numpy(flat).reshape(x.shape)
        denoised = model(y, torch.full((len(y),), float(np.exp(log_sigma)), dtype=torch.float64), **extra)
        return (y - denoised).numpy().ravel()

    span = (float(np.log(sigma_from)), float(np.log(sigma_to)))
    done = solve_ivp(slope, span, x.double().numpy().ravel(), method="DOP853", rtol=1e-12, atol=1e-12)
    assert done.success, done.message
    return torch.from_numpy(done.y[:, -1]).reshape(x.shape)
