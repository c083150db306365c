"""Solvers that reuse the outputs of earlier steps, with polynomials or fixed weights in σ: Adams-Bashforth in its dresses."""

import numpy as np

from dode.methods.assembly import Index, counts_with_start, lagrange_integrals, multistep, newest_first, quadrature
from dode.methods.registry import comfyui, k_diffusion, register
from dode.tableau import Array, Tableau

# Adams-Bashforth on a uniform grid, newest output first.
_ADAMS_BASHFORTH = {
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


@register(
    "ipndm",
    aliases=("pndm", "plms"),
    convergence={1: 1, 2: 2, 3: 2, 4: 2},
    directions="slopes",
    source="iPNDM (Zhang and Chen 2023, after Liu et al. 2022); ComfyUI's sample_ipndm. Adams-Bashforth weights of a "
    "uniform grid on any grid, so no more than second order; the first steps are of order 1 to 3, the one to σ = 0 is Euler's.",
    stock=(comfyui("sample_ipndm", options=lambda order: {"max_order": order}, orders=(2, 3, 4)),),
)
def ipndm(sigmas: Array, order: int, coordinate: str) -> Tableau:
    h = np.diff(sigmas)
    return multistep(
        sigmas, counts_with_start(sigmas, order), lambda steps, k: h[steps, None] * np.array(_ADAMS_BASHFORTH[k]), "noise"
    )


def _adams_bashforth(sigmas: Array, counts: Index) -> Tableau:
    def weigh(steps: Index, k: int) -> Array:
        points, weights = quadrature(sigmas[steps], sigmas[steps + 1], 2)  # exact up to degree 3
        return lagrange_integrals(newest_first(sigmas, steps, k), points, weights)

    return multistep(sigmas, counts, weigh, "noise")


@register(
    "lms",
    aliases=("ipndm_v_corrected",),
    convergence={1: 1, 2: 2, 3: 2, 4: 2},
    directions="noise",
    source="Adams-Bashforth on the grid as it is; ComfyUI's sample_lms. Also what iPNDM_v means to be, without ComfyUI's "
    "slips. The first steps are of lower order, the one to σ = 0 is Euler's.",
    stock=(comfyui("sample_lms", options=lambda order: {"order": order}),),
)
def lms(sigmas: Array, order: int, coordinate: str) -> Tableau:
    return _adams_bashforth(sigmas, counts_with_start(sigmas, order))


@register(
    "lms_k_diffusion",
    convergence={1: 1, 2: 2, 3: 2, 4: 2},
    directions="noise",
    source="k-diffusion's sample_lms, which keeps its order in the step to σ = 0; elsewhere it is 'lms'.",
    stock=(k_diffusion("sample_lms", options=lambda order: {"order": order}),),
)
def lms_k_diffusion(sigmas: Array, order: int, coordinate: str) -> Tableau:
    return _adams_bashforth(sigmas, np.minimum(np.arange(1, len(sigmas)), order))


@register(
    "deis_rhoab",
    convergence={1: 1, 2: 2, 3: 2},
    directions="noise",
    source="DEIS-ρAB (Zhang and Chen 2023), which is Adams-Bashforth in σ; ComfyUI's sample_deis with deis_mode='rhoab', which "
    "fails on more steps than its order.",
    stock=(
        comfyui(
            "sample_deis",
            options=lambda order: {"max_order": order, "deis_mode": "rhoab"},
            orders=(2, 3),
            most_steps=lambda order: order,
        ),
    ),
)
def deis_rhoab(sigmas: Array, order: int, coordinate: str) -> Tableau:
    return _adams_bashforth(sigmas, counts_with_start(sigmas, order))


_VP_SIGMA_MIN, _VP_SIGMA_MAX, _VP_EPSILON = 0.002, 80.0, 1e-3
_VP_BETA_D = 2 * (np.log(_VP_SIGMA_MIN**2 + 1) / _VP_EPSILON - np.log(_VP_SIGMA_MAX**2 + 1)) / (_VP_EPSILON - 1)
_VP_BETA_MIN = np.log(_VP_SIGMA_MAX**2 + 1) - 0.5 * _VP_BETA_D


def _vp_time(sigmas: Array) -> Array:
    """The time of the variance-preserving schedule with these σ, β as in EDM table 1 fitted to σ from 0.002 to 80."""
    return (np.sqrt(_VP_BETA_MIN**2 + 2 * _VP_BETA_D * np.log1p(sigmas**2)) - _VP_BETA_MIN) / _VP_BETA_D


@register(
    "deis",
    convergence={1: 1, 2: 2, 3: 2, 4: 2},
    default_order=3,
    directions="slopes",
    source="DEIS-tAB (Zhang and Chen 2023): polynomials in the time of a variance-preserving schedule; ComfyUI's sample_deis. "
    "Stock integrates by a sum over 10 000 points, which is off by about 1e-4 of each weight; here the integrals are exact, "
    "so that weights sum as they should. The first steps are of lower order, the one to σ = 0 is Euler's.",
    stock=(comfyui("sample_deis", options=lambda order: {"max_order": order}, orders=(2, 3, 4)),),
)
def deis(sigmas: Array, order: int, coordinate: str) -> Tableau:
    def weigh(steps: Index, k: int) -> Array:
        # In ln σ the integrand is analytic in a strip of constant width around the real axis.
        logs, weights = quadrature(np.log(sigmas[steps]), np.log(sigmas[steps + 1]), 48)
        points = np.exp(logs)
        return lagrange_integrals(_vp_time(newest_first(sigmas, steps, k)), _vp_time(points), weights * points)

    return multistep(sigmas, counts_with_start(sigmas, order), weigh, "noise")


@register(
    "ipndm_v",
    convergence={1: 1, 2: 2, 3: 2, 4: 2},
    directions="noise",
    source="ComfyUI's sample_ipndm_v as it is. Its weights for three and four outputs miss those of Adams-Bashforth (for those "
    "see 'ipndm_v_corrected'), and the four do not even sum to the step on most grids.",
    stock=(comfyui("sample_ipndm_v", options=lambda order: {"max_order": order}, orders=(2, 3, 4)),),
)
def ipndm_v(sigmas: Array, order: int, coordinate: str) -> Tableau:
    h = np.diff(sigmas)

    def weigh(steps: Index, k: int) -> Array:
        past = newest_first(h, steps, k)
        h0, h1 = past[:, 0], past[:, 1]
        ratio = h0 / h1
        weights = np.zeros((len(steps), k))
        weights[:, 0], weights[:, 1] = 1 + ratio / 2, -ratio / 2
        if k > 2:
            h2 = past[:, 2]
            u = h1 / h2
            a = (1 - h0 / (3 * (h0 + h1)) * (h0 * (h0 + h1)) / (h1 * (h1 + h2))) / 2
            weights[:, :3] += np.stack([a, -(1 + u) * a, u * a], axis=1)
            if k > 3:
                h3 = past[:, 3]
                v = h1 * (h1 + h2) / (h2 * (h2 + h3))
                b = (1 - h0 / (3 * (h0 + h1))) / 2 + (1 - h0 / (2 * (h0 + h1))) * h0 / (6 * (h0 + h1 + h2))
                b *= h0 * (h0 + h1) * (h0 + h1 + h2) / (h1 * (h1 + h2) * (h1 + h2 + h3))
                weights += np.stack([b, -(1 + u + v) * b, (u + v * (1 + h2 / h3)) * b, -u * v * b], axis=1)
        return h0[:, None] * weights

    return multistep(sigmas, counts_with_start(sigmas, order), weigh, "noise", consistent=order < 4)


@register(
    "gradient_estimation",
    convergence={1: 1},
    directions="noise",
    source="Gradient estimation with γ = 2 (Permenter and Yuan 2024); ComfyUI's sample_gradient_estimation. "
    "The first step and the one to σ = 0 are Euler's.",
    stock=(comfyui("sample_gradient_estimation"),),
)
def gradient_estimation(sigmas: Array, order: int, coordinate: str) -> Tableau:
    h = np.diff(sigmas)
    return multistep(sigmas, counts_with_start(sigmas, 2), lambda steps, k: h[steps, None] * np.array([2.0, -1.0]), "noise")
