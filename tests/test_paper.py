"""The paper's D-ODE solvers, written from its formulas without tables: the same λ and the same trajectories as ours.

In the paper's own coordinates: the variance-preserving state is α·x0 + s·n with α = 1/√(1+σ²) and s = σ·α, and ε is the noise
that the model finds in it. ``d`` is the difference of the newest output and the one before; for iPNDM and DEIS, of the
combination of outputs that the step uses and that of the step before. Each formula is a function from λ to a point, affine in
λ, so a least-squares λ needs it at 0 and at 1 only. Teachers take 10 steps to each of the student's, or to each of its
evaluations.

In noise prediction the official code corrects the first step too, by ε - z; ``first`` says whether the formulas here do. For
EDM its teacher is DDIM with 10 steps for each of Heun's evaluations, and the predicted point is compared half way.
"""

from collections.abc import Callable
from itertools import pairwise
from math import expm1, log, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

from dode.demo.mixture import ring
from dode.errors import FitError, TableauError
from dode.fit import paper
from dode.fit.distill import Choice, distill
from dode.fit.paper import family_of, published
from dode.fit.problem import Problem
from dode.methods import build_tableau, get_method
from dode.sampling import sample
from dode.teacher import Teacher

Formulas = Callable[[Tensor, bool], list[Any]]  # from the start to the factors of d, and the end
SAMPLES, SEED, C = 12, 0, 10
HELD = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(SEED)).tolist()[:3]
FITTED = [i for i in range(SAMPLES) if i not in HELD]
MODEL = ring()
GRID = [14.0, 5.0, 1.7, 0.5, 0.1]


def alpha(sigma: float) -> float:
    return 1 / sqrt(1 + sigma**2)


def noise_level(sigma: float) -> float:
    return sigma * alpha(sigma)


def denoised(x: Tensor, sigma: float) -> Tensor:
    return MODEL(x, torch.full((len(x),), sigma, dtype=torch.float64))


def epsilon(z: Tensor, sigma: float) -> Tensor:
    """ε of a variance-preserving state."""
    return (z - alpha(sigma) * denoised(z / alpha(sigma), sigma)) / noise_level(sigma)


def subdivided(levels: list[float], parts: int = C) -> list[float]:
    """Each interval in so many parts, uniform in σ^(1/7)."""
    fine = levels[:1]
    for start, end in pairwise(levels):
        fine += [((1 - k / parts) * start ** (1 / 7) + k / parts * end ** (1 / 7)) ** 7 for k in range(1, parts)] + [end]
    return fine


class Fit:
    """Finds each λ in turn against the teacher's state at the same noise level."""

    def __init__(self, targets: dict[float, Tensor]):
        self.targets, self.lambdas, self.units = targets, [], []

    def __call__(
        self, sigma: float, formula: Callable[[float], Tensor], absolute: float, target: Tensor | None = None
    ) -> Tensor:
        """``absolute``: what λ = 1 adds, in multiples of d, to the state at σ without its α."""
        base, direction = formula(0), formula(1) - formula(0)
        value, target = 0.0, self.targets[sigma] if target is None else target
        if direction.any():
            d = direction[FITTED]
            value = float((d * (target - base)[FITTED]).sum() / (d * d).sum())
        self.lambdas.append(value * absolute)
        return base + value * direction


def transfer(z: Tensor, eps: Tensor, start: float, end: float) -> Tensor:
    """The paper's DDIM update: keep the predicted x0 and the noise."""
    x0 = (z - noise_level(start) * eps) / alpha(start)
    return alpha(end) * x0 + noise_level(end) * eps


def ddim_teacher(z: Tensor, levels: list[float]) -> dict[float, Tensor]:
    found, fine = {}, subdivided(levels)
    for start, end in pairwise(fine):
        z = transfer(z, epsilon(z, start), start, end)
        found[end] = z
    return found


def missing(eps: Tensor, z: Tensor, first: bool) -> Tensor:
    """The difference in the first step, which has no output before its own."""
    return eps - z if first else 0 * eps


def ddim_noise(z: Tensor, first: bool) -> list[Any]:
    fit, before = Fit(ddim_teacher(z, GRID)), None
    for start, end in pairwise(GRID):
        eps = epsilon(z, start)
        d = missing(eps, z, first) if before is None else eps - before
        z, before = fit(end, lambda v, z=z, e=eps, d=d, s=start, t=end: transfer(z, e + v * d, s, t), end - start), eps
    return [*fit.lambdas, z]


def ddim_data(z: Tensor, first: bool) -> list[Any]:
    def step(z: Tensor, x0: Tensor, start: float, end: float) -> Tensor:
        return alpha(end) * x0 + noise_level(end) * (z - alpha(start) * x0) / noise_level(start)

    levels = [*GRID, 0.0]
    fit, before = Fit(ddim_teacher(z, levels)), None
    for start, end in pairwise(levels):
        x0 = denoised(z / alpha(start), start)
        d = 0 * x0 if before is None else x0 - before
        z, before = fit(end, lambda v, z=z, x0=x0, d=d, s=start, t=end: step(z, x0 + v * d, s, t), 1 - end / start), x0
    return [*fit.lambdas, z]


ADAMS = {1: [1], 2: [3 / 2, -1 / 2], 3: [23 / 12, -16 / 12, 5 / 12], 4: [55 / 24, -59 / 24, 37 / 24, -9 / 24]}


def ipndm(z: Tensor, first: bool) -> list[Any]:
    def combined(history: list[Tensor]) -> Tensor:
        weights = ADAMS[min(4, len(history))]
        return sum((w * e for w, e in zip(weights, reversed(history), strict=False)), torch.zeros_like(z))

    targets, fine, y, history = {}, subdivided(GRID), z, []
    for start, end in pairwise(fine):
        history.append(epsilon(y, start))
        y = transfer(y, combined(history), start, end)
        targets[end] = y
    fit, history, before = Fit(targets), [], None
    for start, end in pairwise(GRID):
        history.append(epsilon(z, start))
        e = combined(history)
        d = missing(e, z, first) if before is None else e - before
        z, before = fit(end, lambda v, z=z, e=e, d=d, s=start, t=end: transfer(z, e + v * d, s, t), end - start), e
    return [*fit.lambdas, z]


def vp_time(sigma: float) -> float:
    beta_d = 2 * (log(0.002**2 + 1) / 1e-3 - log(80.0**2 + 1)) / (1e-3 - 1)
    beta_min = log(80.0**2 + 1) - 0.5 * beta_d
    return (sqrt(beta_min**2 + 2 * beta_d * log(1 + sigma**2)) - beta_min) / beta_d


def deis(order: int) -> Formulas:
    def step(z: Tensor, history: list[Tensor], levels: list[float], i: int) -> tuple[Tensor, Tensor]:
        """α'/α·z + Σ C_ij ε_j, the weights C by adaptive quadrature of the polynomials in t; and Σ C_ij ε_j / Σ C_ij."""
        start, end, k = levels[i], levels[i + 1], min(order, i + 1)
        times = [vp_time(levels[i - j]) for j in range(k)]
        combined, total = 0 * z, 0.0
        for j in range(k):

            def basis(log_sigma: float, j: int = j, times: list[float] = times) -> float:
                t, sigma = vp_time(np.exp(log_sigma)), float(np.exp(log_sigma))
                return sigma * float(np.prod([(t - u) / (times[j] - u) for m, u in enumerate(times) if m != j]))

            weight = quad(basis, log(start), log(end), epsabs=1e-14, epsrel=1e-13)[0]
            combined, total = combined + weight * history[-1 - j], total + weight
        return alpha(end) / alpha(start) * z + alpha(end) * combined, combined / total

    def run(z: Tensor, first: bool) -> list[Any]:
        targets, fine, y, history = {}, subdivided(GRID), z, []
        for i, end in enumerate(fine[1:]):
            history.append(epsilon(y, fine[i]))
            y, _ = step(y, history, fine, i)
            targets[end] = y
        fit, history, before = Fit(targets), [], None
        for i, end in enumerate(GRID[1:]):
            history.append(epsilon(z, GRID[i]))
            base, combined = step(z, history, GRID, i)
            d = missing(combined, z, first) if before is None else combined - before
            # The paper adds λ·d to the state itself.
            z, before = fit(end, lambda v, base=base, d=d: base + v * d, 1 / alpha(end)), combined
        return [*fit.lambdas, z]

    return run


def every_interval(*inner: float) -> list[list[float]]:
    """The levels of each step where every interval is one, with inner points uniform in ln σ."""
    return [[start, *(start * (end / start) ** r for r in inner), end] for start, end in pairwise(GRID)]


def dpm_solver(*steps: list[float]) -> Formulas:
    """Steps of order 1 to 3, each over its levels."""

    def run(z: Tensor, first: bool) -> list[Any]:
        levels = [steps[0][0], *(level for step in steps for level in step[1:])]
        fit, before = Fit(ddim_teacher(z, levels)), None
        for start, *inner, end in steps:
            h = log(start / end)
            stages = [(log(start / level) / h, level) for level in inner]
            eps = epsilon(z, start)
            d = missing(eps, z, first) if before is None else eps - before
            if not inner:
                z, before = fit(end, lambda v, z=z, e=eps, d=d, s=start, t=end: transfer(z, e + v * d, s, t), end - start), eps
                continue
            r1, s1 = stages[0]
            factor = noise_level(s1) * expm1(r1 * h)
            u = fit(
                s1,
                lambda v, z=z, e=eps, d=d, s=s1, a=start, c=factor: alpha(s) / alpha(a) * z - c * (e + v * d),
                -s1 * expm1(r1 * h),
            )
            eps_1 = epsilon(u, s1)
            d1, plain = eps_1 - eps, alpha(end) / alpha(start) * z - noise_level(end) * expm1(h) * eps
            if len(stages) == 1:
                weight = noise_level(end) / (2 * r1) * expm1(h)
                bracket, last, before = d1, d1, eps_1
            else:
                r2, s2 = stages[1]
                c = noise_level(s2) * r2 / r1 * (expm1(r2 * h) / (r2 * h) - 1)
                inner_plain = alpha(s2) / alpha(start) * z - noise_level(s2) * expm1(r2 * h) * eps
                u = fit(s2, lambda v, p=inner_plain, c=c, d=d1: p - c * (d + v * d), -c / alpha(s2))
                eps_2 = epsilon(u, s2)
                weight = noise_level(end) / r2 * (expm1(h) / h - 1)
                bracket, last, before = eps_2 - eps, eps_2 - eps_1, eps_2
            z = fit(end, lambda v, p=plain, w=weight, b=bracket, d=last: p - w * (b + v * d), -weight / alpha(end))
        return [*fit.lambdas, z]

    return run


def edm(x: Tensor, first: bool, half_way: bool = False) -> list[Any]:
    """Heun's method in the variance-exploding state, λ at both stages, on differences of denoised outputs."""
    levels = [*GRID, 0.0]

    def slope(x: Tensor, x0: Tensor, sigma: float) -> Tensor:
        return (x - x0) / sigma

    targets, y, fine = {}, x, subdivided(levels, 2 * C if half_way else C)
    for start, end in pairwise(fine):
        d = slope(y, denoised(y, start), start)
        predicted = y + (end - start) * d
        y = predicted if end == 0 or half_way else y + (end - start) * (d + slope(predicted, denoised(predicted, end), end)) / 2
        targets[end] = y
    fit, before = Fit(targets), None
    for i, (start, end) in enumerate(pairwise(levels)):
        half = targets[fine[(2 * i + 1) * C]] if half_way and end else None
        x0 = denoised(x, start)
        h, d = end - start, 0 * x0 if before is None else x0 - before
        gradient, before = slope(x, x0, start), x0
        # A change of λ·d in x0 changes the slope by -λ·d/σ, and the point by h times that.
        predicted = fit(end, lambda v, x=x, g=gradient, h=h, d=d, s=start: x + h * (g - v * d / s), 1 - end / start, half)
        if end == 0:
            return [*fit.lambdas, predicted]
        x0 = denoised(predicted, end)
        both = (gradient + slope(predicted, x0, end)) / 2
        x = fit(end, lambda v, x=x, g=both, h=h, d=x0 - before, s=start: x + h * (g - v * d / s), 1 - end / start)
        before = x0
    raise AssertionError("the grid ends at 0")


def edm_half_way(x: Tensor, first: bool) -> list[Any]:
    return edm(x, first, half_way=True)


FAMILIES = {
    "D-DDIM, noise": ("ddim", None, "noise", False, ddim_noise),
    "D-DDIM, data": ("ddim", None, "data", True, ddim_data),
    "D-iPNDM": ("ipndm", None, None, False, ipndm),
    "D-DPM-Solver-2": ("D-DPM-Solver-2", None, None, False, dpm_solver(GRID[:3], GRID[2:])),
    "D-DPM-Solver-3": ("D-DPM-Solver-3", None, None, False, dpm_solver(GRID[:4], GRID[3:])),
    "DPM-Solver-2 in every interval": ("dpm_solver_2", None, None, False, dpm_solver(*every_interval(1 / 2))),
    "DPM-Solver-3 in every interval": ("dpm_solver_3", None, None, False, dpm_solver(*every_interval(1 / 3, 2 / 3))),
    "D-DEIS, tAB1": ("deis", 2, None, False, deis(2)),
    "D-DEIS, tAB2": ("deis", 3, None, False, deis(3)),
    "D-DEIS, tAB3": ("deis", 4, None, False, deis(4)),
    "D-EDM": ("edm", None, None, True, edm_half_way),
    "D-EDM with Heun's teacher": ("edm", None, None, True, edm),
}
DATA = (ddim_data, edm, edm_half_way)


CASES = [
    pytest.param(family, first, id=f"{family}{', first step too' * first}")
    for family in FAMILIES
    for first in (False, True)
    if not (first and FAMILIES[family][-1] in DATA)  # only noise outputs have something to compare the first one with
]


@pytest.mark.parametrize(("family", "first"), CASES)
def test_the_paper_s_formula_gives_the_same_parameters_and_trajectory(family: str, first: bool) -> None:
    method, order, directions, to_zero, reference = FAMILIES[family]
    x = torch.randn(SAMPLES, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * GRID[0]
    sigmas = [*GRID, 0.0] if to_zero else GRID
    half = reference is edm_half_way
    teacher = Teacher("euler", substeps=2 * C) if half else None
    found = distill(
        MODEL,
        x,
        sigmas,
        method=method,
        order=order,
        directions=directions,
        first_step=first,
        teacher=teacher,
        half_way=half,
        guard=False,
        seed=SEED,
    )
    assert found.report.held_out == len(HELD)

    exploding = reference in (edm, edm_half_way)
    *wanted, end = reference(x if exploding else x * alpha(GRID[0]), first)
    if not exploding:
        end = end / alpha(sigmas[-1])
    # Ours times the row's increment is the factor of the difference.
    base = build_tableau(method, sigmas, order)
    form = found.parameters.directions
    starts, sigma = [], base.sigma
    for row in base.rows:
        starts.append(sigma)
        sigma = row.sigma if row.commit else sigma
    steps = [1 - r.sigma / s if form == "data" else r.sigma - s for r, s in zip(base.rows, starts, strict=True)]
    got = found.parameters.values[:, 0] * np.array(steps)
    assert np.abs(got).max() > 1e-3
    assert bool(got[0]) == first
    np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-9 * np.abs(wanted).max())
    ours = sample(MODEL, x, found.parameters.tableau())
    assert float((ours - end).abs().max()) < 1e-9 * float(end.abs().max())


NAMES = [name for name in FAMILIES if name.startswith("D-") and "Heun" not in name]


@pytest.mark.parametrize("family", NAMES)
def test_mode_paper_takes_the_published_settings(family: str) -> None:
    """The formulas above have the paper's teachers and targets, so what fits them is what is published."""
    name, order, directions, _, reference = FAMILIES[family]
    choice = published(name, order=order, prediction="eps" if directions == "noise" else "edm")
    usual = distill(MODEL, torch.randn(4, 4) * GRID[0], GRID, method=name, order=order, directions=directions)
    assert choice.first_step == (reference not in DATA)
    assert choice.half_way == (reference is edm_half_way)
    assert choice.teacher == (Teacher("euler", substeps=2 * C) if choice.half_way else usual.report.teacher)
    assert choice.directions == usual.parameters.directions
    assert published("D-EDM", teacher="heun") == Choice("heun", directions="data", teacher=Teacher("heun"))


@pytest.mark.parametrize("family", paper.FAMILIES, ids=lambda family: family.name)
def test_every_name_of_the_paper_leads_to_its_solver(family: paper.Family) -> None:
    assert any(name.startswith(family.name) for name in NAMES)
    assert family.order == get_method(family.method).default_order
    for name in (family.name, *family.also):
        for said in (name, name.lower(), f"sample_{name}".replace("-", "_")):
            assert family_of(said) is family


def test_the_documents_say_what_each_name_means() -> None:
    text = (Path(__file__).parent.parent / "docs" / "paper.md").read_text()
    rows = {cells[1].strip(): cells for line in text.splitlines() if (cells := line.split("|")) and len(cells) == 8}
    for family in paper.FAMILIES:
        for prediction in family.predictions:
            kind = family.directions("eps" if prediction == "noise" else "edm")
            found = next(cells for name, cells in rows.items() if name.startswith(family.name) and f"`{kind}`" in cells[4])
            for cell, said in zip(found[2:6], (family.method, str(family.order), kind, family.teacher), strict=True):
                assert f"`{said}`" in cell or said in cell.split(), (found, said)
            assert f"one a{'n' * (family.per == 'evaluation')} {family.per}" in found[6]


def test_the_best_of_several_is_the_best_on_the_fitted_samples() -> None:
    x = torch.randn(SAMPLES, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * GRID[0]
    found = paper.choices(None, prediction="eps")
    assert [choice.method for choice in found] == ["euler", "ipndm", "dpm_2_singlestep", "dpm_3_singlestep", "deis"]
    best = paper.distill_published(Problem(MODEL, x, seed=SEED), GRID, found, guard=False)
    judge = Teacher("ipndm", substeps=C)
    target = sample(MODEL, x, judge.tableau(GRID))

    def error(choice: Choice) -> float:
        alone = distill(MODEL, x, GRID, **(vars(choice) | {"teacher": judge, "guard": False, "seed": SEED}))
        return float((sample(MODEL, x, alone.parameters.tableau()) - target)[FITTED].square().mean())

    winner = min(found, key=error)
    alone = distill(MODEL, x, GRID, **vars(winner), guard=False, seed=SEED)
    assert best.parameters.method == winner.method
    np.testing.assert_allclose(best.parameters.values, alone.parameters.values, rtol=1e-9)
    assert best.report.teacher == winner.teacher
    counted = paper.planned(GRID, found, samples=SAMPLES, coordinate="log_sigma", seed=SEED)
    assert counted["search"] == best.report.model_evaluations["search"] == SAMPLES * 4 * len(found)
    if winner.teacher == judge:
        assert counted == best.report.model_evaluations


def test_an_order_needs_a_solver() -> None:
    with pytest.raises(FitError, match="Order 2 belongs to a solver"):
        paper.choices(None, order=2)


def test_the_first_step_cannot_be_corrected_everywhere() -> None:
    x = torch.randn(4, 4, dtype=torch.float64) * GRID[0]
    with pytest.raises(FitError, match="differences of noise outputs"):
        distill(MODEL, x, GRID, method="euler", directions="data", first_step=True)
    with pytest.raises(TableauError, match="go back to its first output"):
        distill(MODEL, x, GRID, method="dpmpp_2m", directions="noise", first_step=True, guard=False)
    with pytest.raises(FitError, match="even number of substeps"):
        distill(MODEL, x, GRID, method="heun", teacher=Teacher(substeps=5), half_way=True)
    with pytest.raises(FitError, match="predicts where its step ends"):
        distill(MODEL, x, GRID, method="dpm_2", half_way=True)


def test_a_part_of_the_grid_has_no_first_step_to_correct() -> None:
    x = torch.randn(SAMPLES, 4, dtype=torch.float64) * GRID[0]
    parameters = distill(MODEL, x, GRID, method="ipndm", first_step=True, guard=False).parameters
    assert parameters.tableau().rows[0].base != 1
    assert parameters.tableau(GRID[:3]).rows[0] == parameters.tableau().rows[0]
    later = parameters.tableau(GRID[1:])
    assert later.rows[0] == build_tableau("ipndm", GRID[1:]).rows[0]
    assert all(row.base == 1 for row in later.rows)
    assert parameters.tableau(strength=0) == parameters.base()
