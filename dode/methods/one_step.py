"""Solvers that use the current step alone: Euler (DDIM) and Heun (EDM)."""

from dode.methods.registry import register
from dode.tableau import Array, Row, Tableau, increment


@register(
    "euler",
    aliases=("ddim",),
    convergence={1: 1},
    default_order=1,
    teacher="euler",
    source="DDIM (Song et al. 2021) in σ coordinates; k-diffusion's sample_euler without churn.",
)
def euler(sigmas: Array, order: int, coordinate: str) -> Tableau:
    n = len(sigmas) - 1
    rows = (
        Row(float(sigmas[i + 1]), ((i, increment("data", sigmas[i], sigmas[i + 1])),), evaluate=i + 1 < n) for i in range(n)
    )
    return Tableau(float(sigmas[0]), tuple(rows))


@register(
    "heun",
    aliases=("edm",),
    convergence={2: 2},
    default_order=2,
    teacher="heun",
    source="EDM algorithm 1 without churn (Karras et al. 2022); k-diffusion's sample_heun. The step to σ = 0 is Euler's.",
)
def heun(sigmas: Array, order: int, coordinate: str) -> Tableau:
    rows: list[Row] = []
    current, n = 0, len(sigmas) - 1
    for i in range(n):
        sigma, last = float(sigmas[i + 1]), i + 1 == n
        h = increment("noise", float(sigmas[i]), sigma)
        if sigma == 0:
            rows.append(Row(sigma, ((current, h),), evaluate=False))
        else:
            rows.append(Row(sigma, ((current, h),), commit=False))
            rows.append(Row(sigma, ((current, h / 2), (current + 1, h / 2)), evaluate=not last))
            current += 2
    return Tableau(float(sigmas[0]), tuple(rows), "noise")
