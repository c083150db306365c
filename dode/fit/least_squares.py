"""The one least-squares routine: normal equations, scaled, with a ridge, safe for directions that are zero or parallel."""

import numpy as np

from dode.tableau import Array

_RELATIVE_CUTOFF = 1e-12


def solve_normal_equations(gram: Array, moment: Array, ridge: float = 0.0) -> Array:
    """Minimise ‖r - Σ λ_k d_k‖² + ridge · Σ ‖d_k‖² λ_k².

    Args:
        gram: inner products of the directions, float64 (k, k).
        moment: inner products of the directions with the residual r, float64 (k,).
        ridge: dimensionless; 0 is plain least squares.

    Returns:
        λ (k,). A direction that is zero gets 0, and of parallel ones the shortest solution is taken.
    """
    scale = np.sqrt(np.diag(gram))
    inverse = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
    values, vectors = np.linalg.eigh(gram * inverse[:, None] * inverse[None, :])
    regular = np.where(values > _RELATIVE_CUTOFF * max(1.0, values[-1]), values, np.inf)
    return inverse * (vectors @ ((vectors.T @ (moment * inverse)) / (regular + ridge)))
