"""What builders share: rows of single-step and multistep solvers, and the integrals of Lagrange polynomials."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dode.coordinate import coordinate as to_coordinate
from dode.errors import GridError
from dode.tableau import Array, Prediction, Row, Tableau, increment

FLOW_START = 0.9999
"""Where σ = 1 of a flow schedule is moved to, because its half log-SNR is infinite: stock's offset_first_sigma_for_snr on a
model without a shift. On a model with a shift, give the grid a first σ of the model's own choosing."""

Index = NDArray[np.intp]
Weigh = Callable[[Index, int], Array]
Stages = Callable[[int, int], list[Row]]


def singlestep(sigmas: Array, prediction: Prediction, stages: Stages, euler_at_the_end: bool = False) -> Tableau:
    """A solver that starts each step afresh.

    Args:
        stages: ``stages(i, first)`` gives the rows of step i, whose first evaluation has the index ``first``; the last row
            commits. The step to σ = 0 is Euler's, and so is the last one of all if ``euler_at_the_end``.
    """
    rows: list[Row] = []
    first, n = 0, len(sigmas) - 1
    for i in range(n):
        last = i + 1 == n
        if sigmas[i + 1] == 0 or (last and euler_at_the_end):
            h = increment(prediction, float(sigmas[i]), float(sigmas[i + 1]))
            rows.append(Row(float(sigmas[i + 1]), ((first, h),), evaluate=False))
        else:
            *inner, end = stages(i, first)
            rows += inner
            rows.append(Row(end.sigma, end.weights, evaluate=not last))
            first += len(inner) + 1
    return Tableau(float(sigmas[0]), tuple(rows), prediction)


def multistep(
    sigmas: Array, counts: Index, weigh: Weigh, prediction: Prediction = "data", *, consistent: bool = True
) -> Tableau:
    """One evaluation and one row a step, over the outputs of the last steps.

    Args:
        sigmas: the grid (n+1,).
        counts: how many outputs each step uses, int (n,). A step that uses one is Euler's.
        weigh: ``weigh(steps, k)`` gives the weights (len(steps), k), newest output first, of the steps that use k > 1.
    """
    n = len(sigmas) - 1
    euler = 1 - sigmas[1:] / sigmas[:-1] if prediction == "data" else sigmas[1:] - sigmas[:-1]
    levels, newest_first = sigmas.tolist(), [[w] for w in euler.tolist()]
    for k in np.unique(counts[counts > 1]).tolist():
        steps = np.flatnonzero(counts == k)
        for i, weights in zip(steps.tolist(), weigh(steps, k).tolist(), strict=True):
            newest_first[i] = weights
    rows = tuple(
        Row(levels[i + 1], tuple((i - j, w[j]) for j in range(len(w) - 1, -1, -1)), evaluate=i + 1 < n)
        for i, w in enumerate(newest_first)
    )
    return Tableau(levels[0], rows, prediction, consistent)


def counts_with_start(sigmas: Array, order: int) -> Index:
    """How many outputs each step uses: as many as there are, up to ``order``; the step to σ = 0 is Euler's."""
    counts = np.minimum(np.arange(1, len(sigmas)), order)
    return np.where(sigmas[1:] == 0, 1, counts)


def newest_first(values: Array, steps: Index, k: int) -> Array:
    """The last k entries up to each step, (len(steps), k)."""
    return values[steps[:, None] - np.arange(k)]


_gauss = lru_cache(np.polynomial.legendre.leggauss)  # milliseconds, and a file may hold many solvers


def quadrature(start: Array, end: Array, points: int) -> tuple[Array, Array]:
    """Gauss-Legendre points and weights on each interval, both (len(start), points)."""
    nodes, weights = _gauss(points)
    half = (end - start)[:, None] / 2
    return start[:, None] + half * (1 + nodes), half * weights


def lagrange_integrals(nodes: Array, points: Array, density: Array) -> Array:
    """∫ ℓ_j(t) dm for each Lagrange polynomial of each row of nodes.

    Args:
        nodes: (n, k), distinct within a row.
        points: where a quadrature looks, (n, q).
        density: its weights, times whatever else stands in the integral, (n, q).

    Returns:
        (n, k).
    """
    result = np.empty_like(nodes)
    for j in range(nodes.shape[1]):
        basis = density
        for m in range(nodes.shape[1]):
            if m != j:
                basis = basis * ((points - nodes[:, m, None]) / (nodes[:, j] - nodes[:, m])[:, None])
        result[:, j] = basis.sum(axis=1)
    return result


def snr_grid(sigmas: Array, coordinate: str) -> tuple[Array, Array, Array]:
    """A grid with its half log-SNR λ and its signal scale α = σ·e^λ; σ = 1 of a flow schedule becomes ``FLOW_START``.

    Raises:
        GridError: a flow schedule with σ above 1, or with a second σ beyond that start.
    """
    sigmas = sigmas.copy()
    if coordinate == "flow" and sigmas[0] == 1:
        if sigmas[1] >= FLOW_START:
            raise GridError(
                f"This solver starts a flow schedule at sigma {FLOW_START} instead of 1, but the second sigma is "
                f"{sigmas[1]:.17g}. Take fewer steps or another first sigma."
            )
        sigmas[0] = FLOW_START
    snr = to_coordinate(coordinate, sigmas)
    alpha = 1 - sigmas if coordinate == "flow" else np.ones_like(sigmas)
    return sigmas, snr, alpha


def sigma_at(snr: Array | float, coordinate: str) -> Array:
    """The σ at a half log-SNR."""
    return 1 / (1 + np.exp(snr)) if coordinate == "flow" else np.exp(-np.asarray(snr))
