"""Gauss-Newton (Levenberg-Marquardt) on where a sampler ends, over all of its numbers at once and a growing number of samples.

The derivatives of a sample are the costly part. They are computed once, at the point that the fit has reached when the sample
joins, and corrected after every step by what the step did (Broyden 1965). So the samples that join last have theirs where they
are needed, near the result, and the first ones pay for the way there. How strongly λ, γ and told σ shrink towards the theory is
chosen by cross-validation over the samples, from the same sums.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dode.correction import Parameters
from dode.errors import NotFiniteError
from dode.fit.end_point import Targets, sketch
from dode.fit.free_parameters import Freedom, FreeParameters, damped_step
from dode.fit.outliers import outlier_limit, outlier_weights, robust_mean
from dode.metered import Metered
from dode.tableau import Array

_RIDGES = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1)
_FIRST_DAMPING, _LEAST, _MOST = 1e-2, 1e-6, 1e3
_EASIER = 0.3  # times the damping after a step that gained at once
_TRIED = (1.0, 10.0, 100.0)  # times the damping, until a step gains
_ENOUGH = float(__import__("os").environ.get("ENOUGH", "0.01"))  # relative gain of a step below which a round ends
_FOLDS = 4


@dataclass(frozen=True)
class Point:
    """A sampler met on the way: its numbers, where it ends, sketched (N, m), and its mean squared errors, (N,)."""

    parameters: Parameters
    offsets: Array
    reached: Tensor
    errors: Array

    @property
    def loss(self) -> float:
        """Huber's loss, outliers by its own errors."""
        return robust_mean(self.errors, outlier_limit(self.errors))


class GaussNewton:
    """A fit of one sampler's numbers, to which samples are added.

    Attributes:
        point: where it is, on the samples so far; None before the first are added.
        samples: their indices.
    """

    def __init__(self, model: Metered, targets: Targets, start: Parameters, freedom: Freedom, guided: bool):
        self.model, self.targets, self.start = model, targets, start
        self.free = FreeParameters(start, freedom, guided, targets.sigma_range)
        self.samples: list[int] = []
        self.point: Point | None = None
        self._slopes = torch.zeros(0)
        self._damping = _FIRST_DAMPING

    @property
    def parameters(self) -> Parameters:
        """The sampler where the fit is."""
        return self.start if self.point is None else self.point.parameters

    def add(self, samples: list[int]) -> None:
        """Take in samples, with derivatives at the point where the fit is; again, if they are in already.

        Raises:
            NotFiniteError: the model breaks down at this point, or right beside it.
        """
        offsets = self._offsets()
        ends, slopes = self.targets.only(samples).derivatives(self.model, self.free, offsets)
        reached, errors = sketch(ends), self.targets.only(samples).distances(ends)
        old = [i for i, sample in enumerate(self.samples) if sample not in set(samples)]
        if self.point is not None and old:
            reached, slopes = torch.cat([self.point.reached[old], reached]), torch.cat([self._slopes[old], slopes])
            errors = np.concatenate([self.point.errors[old], errors])
        self.samples = [self.samples[i] for i in old] + samples
        self._slopes = slopes
        self._goal = sketch(self.targets.ends[self.samples])
        self.point = Point(self.parameters, offsets, reached, errors)

    def step(self) -> float:
        """Go one step, the first of a few damped ones that lowers the loss; the relative gain in RMS, 0 if none did."""
        point = self.point
        assert point is not None
        limit = outlier_limit(point.errors)
        grams = _grams(self._slopes, self._goal - point.reached) * outlier_weights(point.errors, limit)[:, None, None]
        gram, ridge = grams.sum(axis=0), _choose_ridge(grams, point.offsets, self.free.shrunk)
        before = robust_mean(point.errors, limit)
        for factor in _TRIED:
            damping = factor * self._damping
            found = self._visit(point.offsets + self.free.step(gram, point.offsets, ridge, damping))
            if found is None or not robust_mean(found.errors, limit) < before:
                continue
            _broyden(self._slopes, found.offsets - point.offsets, found.reached - point.reached, gram)
            self.point, self._damping = found, max(damping * (_EASIER if factor == 1 else 1.0), _LEAST)
            return 1 - math.sqrt(robust_mean(found.errors, limit) / before)
        self._damping = min(_TRIED[-1] * self._damping, _MOST)
        return 0.0

    def round(self, samples: list[int], steps: int) -> None:
        """Take in samples and go up to so many steps, until they gain next to nothing."""
        self.add(samples)
        self._damping = min(self._damping, _FIRST_DAMPING)
        for _ in range(steps):
            if self.step() < _ENOUGH:
                break

    def _offsets(self) -> Array:
        return np.zeros(len(self.free.names)) if self.point is None else self.point.offsets

    def _visit(self, offsets: Array) -> Point | None:
        """The point at these offsets; None if there is no such sampler, or the model breaks there."""
        moved = self.free.parameters(offsets)
        if moved is None:
            return None
        on = self.targets.only(self.samples)
        self.model.expect(moved.base().evaluations * len(self.samples))
        try:
            ends = on.run(self.model, moved.tableau())
        except NotFiniteError:
            return None
        return Point(moved, offsets, sketch(ends), on.distances(ends))


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
