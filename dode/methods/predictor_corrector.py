"""Predictor-corrector solvers, in data prediction: UniPC (bh1, bh2) and SA-Solver.

A step predicts a point, evaluates there, and corrects the point with that output; the next step starts from the corrected
point. Only SA-Solver's PECE mode evaluates there once more.
"""

from collections.abc import Sequence

import numpy as np

from dode.coordinate import coordinate as to_coordinate
from dode.errors import GridError
from dode.methods.assembly import Index, Weigh, lagrange_integrals, newest_first, quadrature, snr_grid
from dode.methods.registry import Stock, comfyui, register
from dode.tableau import Array, Row, Tableau

_UNI_PC_END = 0.001
_POINTS = 24


def _grouped(counts: Index, width: int, weigh: Weigh) -> Array:
    """``weigh(steps, k)`` (len(steps), k) for all steps that use k outputs, gathered into (n, width)."""
    result = np.zeros((len(counts), width))
    for k in np.unique(counts[counts > 0]).tolist():
        steps = np.flatnonzero(counts == k)
        result[steps, :k] = weigh(steps, k)
    return result


def _uni_pc(sigmas: Array, variant: int) -> Tableau:
    sigmas = sigmas.copy()
    if sigmas[-1] == 0:
        sigmas[-1] = _UNI_PC_END
        if sigmas[-2] <= _UNI_PC_END:
            raise GridError(
                f"UniPC ends at sigma {_UNI_PC_END} instead of 0, but the sigma before it is {sigmas[-2]:g}. Drop that one."
            )
    n = len(sigmas) - 1
    snr = to_coordinate("log_sigma", sigmas)
    order = min(3, n - 1) if n > 1 else 1
    reached = np.arange(1, n + 1)
    orders = np.where(reached < order, reached, np.minimum(order, n + 1 - reached))
    h, total = np.diff(snr), 1 - sigmas[1:] / sigmas[:-1]
    theta, theta_weights = quadrature(np.zeros(1), np.ones(1), _POINTS)

    def weigh(steps: Index, k: int) -> tuple[Array, Array]:
        """Weights (len(steps), k) of the predictor, and (len(steps), k + 1) of the corrector with the new output first."""
        z = -h[steps]
        scale = z if variant == 1 else np.expm1(z)
        # Moments of the exponential: B(h) · b_i in Zhao et al. 2023, eq. 11.
        decay = np.exp((1 - theta) * z[:, None]) * theta_weights
        moments = np.stack([z * (decay * theta**i).sum(axis=1) / scale for i in range(1, k + 1)], axis=1)
        ratios = (newest_first(snr, steps, k)[:, 1:] - snr[steps, None]) / h[steps, None]
        powers = np.arange(k)[:, None]
        system = np.concatenate([ratios, np.ones((len(steps), 1))], axis=1)[:, None, :] ** powers
        inner = {1: np.zeros((len(steps), 0)), 2: np.full((len(steps), 1), 0.5)}.get(k)
        # The order conditions: as many as weights, and met exactly. Least squares would square their condition number.
        if inner is None:
            inner = np.linalg.solve(system[:, :-1, :-1], moments[:, :-1, None])[:, :, 0]
        outer = np.full((len(steps), 1), 0.5) if k == 1 else np.linalg.solve(system, moments[:, :, None])[:, :, 0]
        predictor, corrector = np.zeros((len(steps), k)), np.zeros((len(steps), k + 1))
        predictor[:, 1:] = -scale[:, None] * inner / ratios
        corrector[:, 0], corrector[:, 2:] = -scale * outer[:, -1], -scale[:, None] * outer[:, :-1] / ratios
        predictor[:, 0] = total[steps] - predictor.sum(axis=1)
        corrector[:, 1] = total[steps] - corrector.sum(axis=1)
        return predictor, corrector

    predictors = _grouped(orders, 3, lambda steps, k: weigh(steps, k)[0])
    correctors = np.zeros((n, 4))
    for k in np.unique(orders).tolist():
        steps = np.flatnonzero(orders == k)
        correctors[steps, : k + 1] = weigh(steps, k)[1]
    rows: list[Row] = []
    for i, level in enumerate(sigmas[1:].tolist()):
        k = int(orders[i])
        rows.append(_row(level, range(i, i - k, -1), predictors[i], evaluate=i + 1 < n, commit=i + 1 == n))
        if i + 1 < n:
            rows.append(_row(level, range(i + 1, i - k, -1), correctors[i], evaluate=False))
    return Tableau(float(sigmas[0]), tuple(rows))


def _row(sigma: float, indices: Sequence[int], weights: Array, evaluate: bool, commit: bool = True) -> Row:
    """A row from the indices of its evaluations and their weights, newest first."""
    return Row(sigma, tuple(sorted(zip(indices, weights.tolist(), strict=False))), evaluate, commit)


_UNI_PC_SOURCE = (
    "UniPC-{0} of order 3 (Zhao et al. 2023), predict, evaluate, correct, in -ln σ on every model; ComfyUI's {1}. It ends at "
    "σ = 0.001 instead of 0, and lowers its order towards the end. A grid of one step, on which stock returns its input "
    "scaled, is Euler's."
)


@register(
    "uni_pc",
    convergence={3: 2},
    source=_UNI_PC_SOURCE.format("bh1", "sample_unipc"),
    stock=(Stock("comfy.extra_samplers.uni_pc:sample_unipc", fewest_steps=2),),
)
def uni_pc(sigmas: Array, order: int, coordinate: str) -> Tableau:
    return _uni_pc(sigmas, 1)


@register(
    "uni_pc_bh2",
    convergence={3: 2},
    source=_UNI_PC_SOURCE.format("bh2", "sample_unipc_bh2"),
    stock=(Stock("comfy.extra_samplers.uni_pc:sample_unipc_bh2", fewest_steps=2),),
)
def uni_pc_bh2(sigmas: Array, order: int, coordinate: str) -> Tableau:
    return _uni_pc(sigmas, 2)


def _sa_solver(sigmas: Array, order: int, coordinate: str, evaluate_twice: bool) -> Tableau:
    sigmas, snr, alpha = snr_grid(sigmas, coordinate)
    n, to_zero = len(sigmas) - 1, sigmas[-1] == 0
    at = np.arange(n + 1)
    # What leaves level i, and what corrects level i; both lose order towards σ = 0.
    predictor_counts = np.minimum(order, at[:-1] + 1)
    corrector_counts = np.minimum(order + 1, at + 1)
    if to_zero:
        predictor_counts = np.minimum(predictor_counts, n - 1 - at[:-1])
        corrector_counts = np.minimum(corrector_counts, n - at)
        corrector_counts[n - 1] *= evaluate_twice
    corrector_counts[[0, n]] = 0

    def weigh(steps: Index, nodes: Array) -> Array:
        points, weights = quadrature(snr[steps], snr[steps + 1], _POINTS)
        density = weights * np.exp(points - snr[steps + 1, None]) * alpha[steps + 1, None]
        return lagrange_integrals(nodes, points, density)

    predictors = _grouped(predictor_counts, order, lambda steps, k: weigh(steps, newest_first(snr, steps, k)))
    correctors = _grouped(corrector_counts, order + 1, lambda at, k: weigh(at - 1, newest_first(snr, at, k)))
    rows: list[Row] = []
    history = [0]  # evaluations that predictors use, oldest first
    for i, level in enumerate(sigmas[1:].tolist()):
        correct, k = int(corrector_counts[i + 1]), int(predictor_counts[i])
        weights = predictors[i] if level else np.ones(1)
        rows.append(_row(level, history[: -max(k, 1) - 1 : -1], weights, evaluate=i + 1 < n, commit=not correct))
        newest = history[-1] + 1
        if correct:
            used = [newest, *history[::-1]][:correct]
            rows.append(_row(level, used, correctors[i + 1], evaluate=evaluate_twice))
        history.append(newest + (evaluate_twice and correct > 0))
    return Tableau(float(sigmas[0]), tuple(rows))


_SA_SOURCE = (
    "SA-Solver (Xue et al. 2023) with τ = 0: predictor of the order asked for, corrector one higher, {0}; ComfyUI's {1}. "
    "A flow schedule starts at σ = 0.9999 instead of 1. The step to σ = 0 is Euler's, with lower orders before it."
)


def _sa_stock(name: str) -> tuple[Stock, ...]:
    # Stock solves for its weights in powers of the half log-SNR, which loses digits on small steps.
    return (
        comfyui(
            name,
            options=lambda order: {"predictor_order": order, "corrector_order": order + 1, "tau_func": lambda sigma: 0.0},
            bound=3e-8,
        ),
    )


@register(
    "sa_solver",
    convergence={1: 2, 2: 3, 3: 3},
    source=_SA_SOURCE.format("predict, evaluate, correct", "sample_sa_solver"),
    stock=_sa_stock("sample_sa_solver"),
)
def sa_solver(sigmas: Array, order: int, coordinate: str) -> Tableau:
    return _sa_solver(sigmas, order, coordinate, evaluate_twice=False)


@register(
    "sa_solver_pece",
    convergence={1: 2, 2: 3, 3: 3},
    source=_SA_SOURCE.format("with a second evaluation at the corrected point", "sample_sa_solver_pece"),
    stock=_sa_stock("sample_sa_solver_pece"),
)
def sa_solver_pece(sigmas: Array, order: int, coordinate: str) -> Tableau:
    return _sa_solver(sigmas, order, coordinate, evaluate_twice=True)
