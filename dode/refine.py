"""End-point refinement: Gauss-Newton (Levenberg-Marquardt) on the final sample, over all numbers of a sampler at once.

Computing all derivatives is the costly part, so they are kept and corrected after every step by what the step did (Broyden
1965), and computed anew only where that no longer helps. How strongly λ, γ and told σ shrink towards the theory is chosen by
cross-validation over the samples, from the same sums; samples that are not fitted judge every step.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from dode.correction import Parameters
from dode.endpoint import Targets, sketch
from dode.errors import NotFiniteError
from dode.metered import Metered
from dode.numbers import Freedom, Numbers, damped_step
from dode.tableau import Array

_RIDGES = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1)
_FIRST_DAMPING, _LEAST, _MOST = 1e-2, 1e-6, 1e3
_EASIER = 0.3  # times the damping after a step that did what was expected
_OTHERS = ((10.0, 0.1), (100.0, 1000.0))  # times the damping where it did not; the second two only if nothing else gains
_AS_EXPECTED = 0.6  # part of the expected gain
_ENOUGH = 0.004  # relative gain below which derivatives are no longer good; with fresh ones the fit stops there
_FOLDS = 4
_STRAY, _STRAY_SAMPLES = 2.0, 64  # times the median error (as a root) is that of a stray, with up to so many samples


@dataclass(frozen=True)
class _Point:
    """A sampler met on the way: where it is and where it ends, (N, m), and how far from the teacher that is, (N,)."""

    parameters: Parameters
    offsets: Array
    reached: Tensor
    errors: Array


class _Fit:
    """What the steps of one refinement share."""

    def __init__(self, model: Metered, targets: Targets, start: Parameters, freedom: Freedom):
        self.model, self.targets = model, targets
        guided = targets.gives_guidance(model, start)
        self.start = start if guided or start.guidance is None else replace(start, guidance=None)
        self.numbers = Numbers(self.start, freedom, guided, targets.sigma_range)
        self.held = np.isin(targets.order, targets.held)
        self.fitted = targets.only(targets.fitted)
        self.goal = sketch(targets.ends[self.fitted.order])

    def visit(self, offsets: Array) -> _Point | None:
        """The point at these offsets; None if there is no such sampler, or the model breaks there."""
        moved = self.numbers.parameters(offsets) if offsets.any() else self.start
        if moved is None:
            return None
        try:
            ends = self.targets.run(self.model, moved.tableau())
        except NotFiniteError:
            return None
        return _Point(moved, offsets, sketch(ends[torch.from_numpy(~self.held)]), self.targets.distances(ends))

    def loss(self, point: _Point, limit: float) -> float:
        """Huber's loss over the fitted samples."""
        return robust_mean(point.errors[~self.held], limit)

    def judges(self, point: _Point, best: _Point) -> bool:
        """Whether the held-out samples find this point better than the best so far."""
        limit = stray_limit(best.errors)
        return robust_mean(point.errors[self.held], limit) < robust_mean(best.errors[self.held], limit)

    def step(self, point: _Point, slopes: Tensor, damping: float) -> tuple[_Point, float, Array] | None:
        """The best of a few damped Gauss-Newton steps, its damping and the Gram matrix it came from; None if none gains."""
        limit = stray_limit(point.errors)
        grams = _grams(slopes, self.goal - point.reached) * stray_weights(point.errors[~self.held], limit)[:, None, None]
        gram, ridge = grams.sum(axis=0), _choose_ridge(grams, point.offsets, self.numbers.shrunk)
        before, tried = self.loss(point, limit), list[tuple[_Point, float]]()

        def attempt(damping: float) -> tuple[float, float]:
            """Relative loss after such a step, and what was expected."""
            step = self.numbers.step(gram, point.offsets, ridge, damping)
            found = self.visit(point.offsets + step)
            if found is None or not self.loss(found, limit) < before:
                return 1.0, 1.0
            tried.append((found, damping))
            change = step @ gram[:-1, :-1] @ step - 2 * step @ gram[:-1, -1]
            return self.loss(found, limit) / before, 1 + change / gram[-1, -1]

        left, expected = attempt(damping)
        if tried and 1 - math.sqrt(left) >= _AS_EXPECTED * (1 - math.sqrt(max(expected, 0.0))):
            return tried[0][0], _EASIER * damping, gram
        for factors in _OTHERS:
            for factor in factors:
                attempt(factor * damping)
            if tried:
                break
        return (*min(tried, key=lambda found: self.loss(found[0], limit)), gram) if tried else None


def refine(
    model: Metered, targets: Targets, start: Parameters, freedom: Freedom, judged: bool = True, ceiling: float = math.inf
) -> tuple[Parameters, Array]:
    """Fit a sampler's numbers so that it ends where the teacher ends.

    Args:
        judged: the held-out samples choose among the points met on the way, and the progress is told of each. Without them,
            where many fits compete on few samples, the last point is taken.
        ceiling: the RMS error on the held-out samples, strays and all, above which no point is taken.

    Returns:
        The parameters with the least error on the held-out samples, strays counted little, among the start and those met on
        the way that stay below the ceiling (see ``judged``), and the mean squared error of each sample, (N,); infinite where
        the model returns NaN or infinity at the start already.
    """
    model.enter("refine", model.counts.get("refine", 0))
    broken = start, np.full(len(targets.order), np.inf)
    try:
        fit = _Fit(model, targets, start, freedom)
    except NotFiniteError:
        return broken
    first = fit.visit(np.zeros(len(fit.numbers.names)))
    if first is None:
        return broken
    best, point, held = first, first, fit.held
    began = math.sqrt(first.errors[held].mean())

    def measured(steps: int) -> None:
        if judged:
            model.measured("refine", steps, began, math.sqrt(best.errors[held].mean()))

    measured(0)
    damping, steps = _FIRST_DAMPING, 0
    for _ in range(freedom.iterations if fit.numbers.names else 0):
        try:
            slopes = fit.fitted.derivatives(model, fit.numbers, point.offsets)
        except NotFiniteError:
            break
        before = point
        for _ in range(freedom.steps):
            found = fit.step(point, slopes, damping)
            if found is None:
                break
            after, damping, gram = found
            damping, steps = min(max(damping, _LEAST), _MOST), steps + 1
            gain = _gain(fit, point, after)
            _broyden(slopes, after.offsets - point.offsets, after.reached - point.reached, gram)
            point = after
            if not judged or (point.errors[held].mean() <= ceiling**2 and fit.judges(point, best)):
                best = point
            measured(steps)
            if gain < _ENOUGH:
                break
        if _gain(fit, before, point) < _ENOUGH:
            break
    return best.parameters, best.errors


def stray_limit(errors: Array) -> float:
    """From which error on, (N,) mean squares, a sample counts as a stray: as a root, twice the median with up to 64 samples.

    With more it grows like the root of their number (adaptive Huber regression: Sun, Zhou and Fan 2020): strays then are not
    the luck of a few, and their part of the mean square can be fitted.
    """
    return _STRAY * math.sqrt(max(1.0, len(errors) / _STRAY_SAMPLES)) * float(np.sqrt(np.median(errors)))


def stray_weights(errors: Array, limit: float) -> Array:
    """Weights of the samples in the normal equations, (N,): Huber 1964."""
    return np.minimum(1.0, limit / np.maximum(np.sqrt(errors), 1e-300))


def robust_mean(errors: Array, limit: float) -> float:
    """Mean of squares up to the limit and of what grows linearly beyond it: Huber's loss.

    A trajectory near the border between two pictures ends in one or the other. Few such strays make up most of a mean square,
    and their derivatives say nothing of the rest. Infinite if one of them is.
    """
    if not np.isfinite(errors).all():
        return math.inf
    return float(np.where(errors <= limit**2, errors, 2 * limit * np.sqrt(errors) - limit**2).mean())


def _gain(fit: _Fit, before: _Point, after: _Point) -> float:
    limit = stray_limit(before.errors)
    return 1 - math.sqrt(fit.loss(after, limit) / max(fit.loss(before, limit), 1e-300))


def _broyden(slopes: Tensor, step: Array, change: Tensor, gram: Array) -> None:
    """Correct the derivatives (N, P, m), in place, so that they explain what a step (P,) did to the ends, (N, m)."""
    metric = gram.diagonal()[:-1] * step
    length = float(metric @ step)
    if length > 0:
        missing = change - torch.einsum("npm,p->nm", slopes, torch.from_numpy(step).to(slopes))
        for sample, its in zip(slopes, missing, strict=True):  # one at a time: no second copy of all derivatives
            sample.addr_(torch.from_numpy(metric / length).to(slopes), its)


def _choose_ridge(grams: Array, offsets: Array, shrunk: Array) -> float:
    """The ridge whose step, fitted on part of the samples, leaves the least on the others, as far as first order tells."""
    folds = [np.arange(len(grams)) % _FOLDS == fold for fold in range(_FOLDS)]
    folds = [fold for fold in folds if fold.any() and not fold.all()]
    left = dict.fromkeys(_RIDGES, 0.0)
    for fold in folds:
        fitted, judge = grams[~fold].sum(axis=0), grams[fold].sum(axis=0)
        for ridge in _RIDGES:
            step = damped_step(fitted[:-1, :-1], fitted[:-1, -1], offsets, shrunk, ridge, 1e-6)
            left[ridge] += step @ judge[:-1, :-1] @ step - 2 * step @ judge[:-1, -1]
    return min(left, key=left.__getitem__)


def _grams(slopes: Tensor, missing: Tensor) -> Array:
    """Per sample, inner products of the end's derivatives by each number and, last, of what is missing: (N, P+1, P+1)."""
    found = []
    for sample, its in zip(slopes, missing, strict=True):
        stacked = torch.cat([sample, its[None]]).double()
        found.append((stacked @ stacked.mT).numpy())
    return np.stack(found)
