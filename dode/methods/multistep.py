"""Solvers that reuse the outputs of earlier steps: DPM-Solver++(2M) and iPNDM."""

import math

from dode.coordinate import coordinate as to_coordinate
from dode.methods.registry import register
from dode.tableau import Array, Row, Tableau, increment

# Adams-Bashforth on a uniform grid, newest output first.
_ADAMS_BASHFORTH = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


@register(
    "dpmpp_2m",
    convergence={2: 2},
    default_order=2,
    teacher="dpmpp_2m",
    source="DPM-Solver++(2M) (Lu et al. 2022); k-diffusion's sample_dpmpp_2m. The first step and the one to σ = 0 are Euler's.",
)
def dpmpp_2m(sigmas: Array, order: int, coordinate: str) -> Tableau:
    t, n = to_coordinate("log_sigma", sigmas), len(sigmas) - 1
    rows: list[Row] = []
    for i in range(n):
        sigma = float(sigmas[i + 1])
        total = -math.expm1(t[i] - t[i + 1]) if sigma > 0 else 1.0
        if i == 0 or sigma == 0:
            weights = ((i, total),)
        else:
            extrapolation = (t[i + 1] - t[i]) / (2 * (t[i] - t[i - 1]))
            weights = ((i - 1, -total * extrapolation), (i, total * (1 + extrapolation)))
        rows.append(Row(sigma, weights, evaluate=i + 1 < n))
    return Tableau(float(sigmas[0]), tuple(rows))


@register(
    "ipndm",
    convergence={1: 1, 2: 2, 3: 2, 4: 2},
    default_order=4,
    directions="noise",
    teacher="ipndm",
    source="iPNDM (Zhang and Chen 2023, after Liu et al. 2022); ComfyUI's sample_ipndm. Adams-Bashforth weights of a "
    "uniform grid on any grid, so no more than second order; the first steps are of order 1 to 3, the one to σ = 0 is Euler's.",
)
def ipndm(sigmas: Array, order: int, coordinate: str) -> Tableau:
    rows: list[Row] = []
    n = len(sigmas) - 1
    for i in range(n):
        sigma = float(sigmas[i + 1])
        h = increment("noise", float(sigmas[i]), sigma)
        newest_first = _ADAMS_BASHFORTH[1 if sigma == 0 else min(order, i + 1)]
        weights = tuple((i - k, h * a) for k, a in reversed(list(enumerate(newest_first))))
        rows.append(Row(sigma, weights, evaluate=i + 1 < n))
    return Tableau(float(sigmas[0]), tuple(rows), "noise")
