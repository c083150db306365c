"""Where samplers start on a flow model: at σ = 1 its half log-SNR is infinite."""

import torch
from torch import Tensor

from dode.methods import build_tableau

PART = 1e-4  # of the way, where a flow model starts; hosts know which noise level that is


def moved_off_one(method: str, order: int | None, sigmas: Tensor, start: float) -> Tensor:
    """Noise levels (n+1,) that begin at 1, with the first one where a host starts a solver that works in the half log-SNR.

    A table alone knows only a model without a shift; solvers that do not mind stay at 1.

    Args:
        method, order: as in ``build_tableau``.
        start: the host's noise level after ``PART`` of the way.

    Example:
        >>> moved_off_one("exp_heun_2_x0", None, torch.tensor([1.0, 0.5, 0.0]), 0.99997).tolist()[0] < 1
        True
    """
    unshifted = build_tableau(method, sigmas.tolist(), order, "flow").sigma
    return torch.cat([sigmas.new_tensor([start]), sigmas[1:]]) if unshifted < start < 1 else sigmas
