"""Gauss-Newton (Levenberg-Marquardt) on where a sampler ends, over all of its numbers at once and a growing number of samples.

The derivatives of a sample are the costly part. They are computed once, at the point that the fit has reached when the sample
joins, and corrected after every step by what the step did (Broyden 1965). So the samples that join last have theirs where they
are needed, near the result, and the first ones pay for the way there. How strongly the numbers are drawn to where they started
is chosen by cross-validation over the samples, from the same sums.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dode.correction import Parameters
from dode.errors import NotFiniteError
from dode.fit import ranks
from dode.fit.derivatives import derivatives
from dode.fit.end_point import Targets, sketch
from dode.fit.free_parameters import Freedom, FreeParameters, damped_step
from dode.fit.model_calls import ModelCalls
from dode.fit.outliers import outlier_limit, outlier_weights, robust_mean
from dode.tableau import Array

_RIDGES = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
_LEAST_RIDGE = 0.1  # over the number of samples: so much is known of the numbers before
_FIRST_DAMPING, _LEAST, _MOST = 1e-2, 1e-6, 1e3
_EASIER, _STIFFER = 0.3, 5.0  # times the damping after a step that gained, and after one that did not
_ENOUGH, _IDLE = 0.005, 2  # a round ends after more steps in a row than this that gain less
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

    def __init__(self, model: ModelCalls, targets: Targets, start: Parameters, freedom: Freedom, guided: bool):
        self.model, self.targets, self.start = model, targets, start
        self.free = FreeParameters(start, freedom, guided, targets.sigma_range)
        self.samples: list[int] = []
        self.point: Point | None = None
        self._slopes = torch.zeros(0)
        self._began = math.inf
        self._damping = _FIRST_DAMPING

    @property
    def parameters(self) -> Parameters:
        """The sampler where the fit is."""
        return self.start if self.point is None else self.point.parameters

    @property
    def gain(self) -> float:
        """By which part the RMS error has fallen since the start, on the samples of then."""
        return 0.0 if self.point is None else 1 - math.sqrt(self.point.loss / max(self._began, 1e-300))

    def shrunk(self, part: float) -> Parameters | None:
        """The sampler at a part of the way from the start to here; None if there is none."""
        return self.free.parameters(part * self._offsets())

    def add(self, samples: list[int]) -> None:
        """Take in samples, with derivatives at the point where the fit is; again, if they are in already.

        Raises:
            NotFiniteError: the model breaks down at this point, or right beside it.
        """
        offsets = self._offsets()
        ends, slopes = derivatives(self.targets.only(samples), self.model, self.free, offsets)
        reached, errors = sketch(ends), self.targets.only(samples).distances(ends)
        old = [i for i, sample in enumerate(self.samples) if sample not in set(samples)]
        if self.point is not None and old:
            reached, slopes = torch.cat([self.point.reached[old], reached]), torch.cat([self._slopes[old], slopes])
            errors = np.concatenate([self.point.errors[old], errors])
        self.samples = [self.samples[i] for i in old] + samples
        self._slopes = slopes
        self._goal = sketch(self.targets.ends[self.samples])
        self.point = Point(self.parameters, offsets, reached, errors)
        if not offsets.any():
            self._began = self.point.loss

    def step(self) -> float:
        """Try one damped step; the relative gain in RMS, 0 if the loss did not fall and the fit stays where it was.

        Either way the derivatives learn from it, and the damping is eased or stiffened for the next one.
        """
        point = self.point
        assert point is not None
        limit = outlier_limit(point.errors)
        grams = _grams(self._slopes, self._goal - point.reached) * outlier_weights(point.errors, limit)[:, None, None]
        gram, ridge = grams.sum(axis=0), _choose_ridge(grams, point.offsets)
        before = robust_mean(point.errors, limit)
        found = self._visit(ranks.agreed(point.offsets + self.free.step(gram, point.offsets, ridge, self._damping)))
        if found is not None:
            _broyden(self._slopes, found.offsets - point.offsets, found.reached - point.reached, gram)
            after = robust_mean(found.errors, limit)
            if ranks.agreed(after < before):
                self.point, self._damping = found, max(self._damping * _EASIER, _LEAST)
                return 1 - math.sqrt(after / before)
        self._damping = min(self._damping * _STIFFER, _MOST)
        return 0.0

    def round(self, samples: list[int], steps: int) -> None:
        """Take in samples and try so many steps, fewer if three in a row gain next to nothing."""
        self.add(samples)
        self._damping, idle = min(self._damping, _FIRST_DAMPING), 0
        for _ in range(steps):
            idle = idle + 1 if self.step() < _ENOUGH else 0
            if idle > _IDLE:
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


def _choose_ridge(grams: Array, offsets: Array) -> float:
    """The ridge whose step, fitted on part of the samples, leaves the least on the others, as far as first order tells."""
    folds = [np.arange(len(grams)) % _FOLDS == fold for fold in range(_FOLDS)]
    folds = [fold for fold in folds if fold.any() and not fold.all()]
    ridges = [max(ridge, _LEAST_RIDGE / len(grams)) for ridge in _RIDGES]
    left = dict.fromkeys(ridges, 0.0)
    for fold in folds:
        fitted, judge = grams[~fold].sum(axis=0), grams[fold].sum(axis=0)
        for ridge in ridges:
            step = damped_step(fitted[:-1, :-1], fitted[:-1, -1], offsets, ridge, 1e-6)
            left[ridge] += step @ judge[:-1, :-1] @ step - 2 * step @ judge[:-1, -1]
    return min(left, key=left.__getitem__)


def _grams(slopes: Tensor, missing: Tensor) -> Array:
    """Per sample, inner products of the end's derivatives by each number and, last, of what is missing: (N, P+1, P+1)."""
    found = []
    for sample, its in zip(slopes, missing, strict=True):
        stacked = torch.cat([sample, its[None]]).double()
        found.append((stacked @ stacked.mT).numpy())
    return np.stack(found)
