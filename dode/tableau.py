"""A solver as data: rows of weights over the model outputs so far.

Every deterministic solver on a fixed grid integrates dx/dσ = (x - D(x, σ)) / σ, where D is the denoised output (an
estimate of x0) and ε = (x - D) / σ the noise output. Each of its updates is a row, in one of two equal forms:

    data:   y = (σ_row / σ_base) · x_base + Σ w_j · D_j     with  Σ w_j = 1 - σ_row / σ_base
    noise:  y = x_base + Σ w_j · ε_j                        with  Σ w_j = σ_row - σ_base

This is a general linear method (Butcher) with predict, evaluate and correct as flags. The condition on the sum (the row's
*increment*) is consistency: a constant D is integrated exactly.

A correction by the noisy start (``dode.correction``) also multiplies x_base by a number of its own. Such a row is not
consistent.

Under classifier-free guidance an evaluation gives one thing more, G = D_cond - D_uncond. A row may add Σ c_j · G_j, in either
form: it changes the guidance scale step by step, so these weights need not sum to anything.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dode.errors import GridError, TableauError

Prediction = Literal["data", "noise"]
PREDICTIONS: tuple[Prediction, ...] = ("data", "noise")
Directions = Literal["data", "noise", "slopes"]  # what successive differences are of: see dode.correction
DIRECTIONS: tuple[Directions, ...] = (*PREDICTIONS, "slopes")
Array = NDArray[np.float64]
Weights = tuple[tuple[int, float], ...]
BASE = -1  # stands for the base point where a correction weighs it among the outputs

MAX_STEPS = 1000


def check_sigmas(sigmas: Sequence[float] | Array) -> Array:
    """A σ grid as float64 (n+1,): finite, strictly descending, n from 1 to 1000, last may be 0.

    Raises:
        GridError: anything else, with the value that is wrong.
    """
    try:
        grid = np.array(sigmas, dtype=np.float64)
    except (TypeError, ValueError):
        raise GridError(f"sigmas must be a list of numbers, got {type(sigmas).__name__}.") from None
    if grid.ndim != 1 or not 2 <= len(grid) <= MAX_STEPS + 1:
        raise GridError(
            f"sigmas must be a flat list of 2 to {MAX_STEPS + 1} noise levels (1 to {MAX_STEPS} steps), got shape {grid.shape}."
        )
    if not np.isfinite(grid).all():
        raise GridError(f"sigmas must be finite, got {grid[~np.isfinite(grid)][0]} at index {np.argmin(np.isfinite(grid))}.")
    if grid[-1] < 0:
        raise GridError(f"sigmas must not be negative, got {grid[-1]:g} at the end.")
    bad = np.flatnonzero(np.diff(grid) >= 0)
    if len(bad):
        i = int(bad[0])
        raise GridError(
            f"sigmas must be strictly descending, but sigmas[{i}] = {grid[i]:g} is followed by {grid[i + 1]:g}. "
            "Sort the schedule from noisy to clean and drop repeated values."
        )
    return grid


def increment(prediction: Prediction, sigma_base: float, sigma: float) -> float:
    """What a row's weights must sum to."""
    return 1 - sigma / sigma_base if prediction == "data" else sigma - sigma_base


@dataclass(frozen=True)
class Row:
    """One update.

    Attributes:
        sigma: noise level of the result.
        weights: pairs (index of an evaluation, weight), ascending in the index.
        evaluate: the model is evaluated at the result.
        commit: the result becomes the base of the rows after it; this ends a step.
        guidance_weights: of the guidance differences G, pairs like ``weights``.
        base: what x_base is multiplied by, beside the form's own factor. Where it is not 1 the weights may have any sum.

    Example:
        >>> Row(1.0, ((0, 0.5),)).commit  # base + 0.5 times output 0, and the next step starts from there
        True
    """

    sigma: float
    weights: Weights
    evaluate: bool = True
    commit: bool = True
    guidance_weights: Weights = ()
    base: float = 1.0


@dataclass(frozen=True)
class Tableau:
    """A solver on a grid: evaluate at the start, then go through the rows.

    Attributes:
        sigma: noise level of the start.
        rows: the updates, in order. Evaluation 0 is the one at the start; each row with ``evaluate`` adds the next.
        prediction: whether the weights refer to D ("data") or to ε ("noise"). It also says which of the two a sampler
            has to keep in memory.
        consistent: False for the few stock samplers whose weights do not sum as they should and which are reproduced as they
            are. They exist in the "noise" form only.
        model_sigmas: the noise level that the model is told at each evaluation, (NFE,), where it is not the true one.

    Raises:
        TableauError: on construction, if the rows are not a consistent explicit solver.

    Example:
        >>> from dode.methods import build_tableau
        >>> table = build_tableau("heun", [10.0, 3.0, 0.0])
        >>> len(table.rows), table.evaluations
        (3, 3)
    """

    sigma: float
    rows: tuple[Row, ...]
    prediction: Prediction = "data"
    consistent: bool = True
    model_sigmas: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            raise TableauError(f"prediction must be 'data' or 'noise', got {self.prediction!r}.")
        if not self.consistent and self.prediction != "noise":
            raise TableauError("A solver that is not consistent can only be given in the 'noise' form.")
        if not self.rows or not (math.isfinite(self.sigma) and self.sigma > 0):
            raise TableauError(f"A solver needs a positive first sigma and at least one row, got sigma {self.sigma}.")
        if self.rows[-1].evaluate or not self.rows[-1].commit:
            raise TableauError("The last row must commit its result and not evaluate there.")
        base, evaluations = self.sigma, 1
        for number, row in enumerate(self.rows):
            self._check_row(number, row, base, evaluations)
            evaluations += row.evaluate
            base = row.sigma if row.commit else base
        told = self.model_sigmas
        if told is not None and not (len(told) == evaluations and all(math.isfinite(s) and s > 0 for s in told)):
            raise TableauError(
                f"model_sigmas must be {evaluations} positive noise levels, one for each evaluation, got {told}."
            )

    def _check_row(self, number: int, row: Row, base: float, evaluations: int) -> None:
        if not (math.isfinite(row.sigma) and row.sigma >= 0 and (row.sigma > 0 or not row.evaluate)):
            raise TableauError(f"Row {number} has sigma {row.sigma}: it must be positive, or 0 where nothing is evaluated.")
        if base <= 0:
            raise TableauError(f"Row {number} starts from sigma 0: there is nothing left to integrate.")
        total = size = 0.0
        for history in (row.weights, row.guidance_weights):
            last = -1
            for index, weight in history:
                if not last < index < evaluations:
                    raise TableauError(
                        f"Row {number} refers to evaluation {index}: out of order, or beyond the {evaluations} made so far."
                    )
                if history is row.guidance_weights and not math.isfinite(weight):
                    raise TableauError(f"Row {number} has the guidance weight {weight} for evaluation {index}.")
                last = index
        for _, weight in row.weights:
            total, size = total + weight, size + abs(weight)
        if not math.isfinite(row.base):
            raise TableauError(f"Row {number} multiplies its base point by {row.base}.")
        wanted = increment(self.prediction, base, row.sigma)
        if self.consistent and row.base == 1 and not abs(total - wanted) <= 1e-9 * max(size, abs(wanted), 1e-300):
            raise TableauError(f"Row {number} is not consistent: its weights sum to {total:.17g}, not {wanted:.17g}.")

    @cached_property
    def evaluations(self) -> int:
        """Number of function evaluations (NFE)."""
        return 1 + sum(row.evaluate for row in self.rows)

    @cached_property
    def evaluation_sigmas(self) -> tuple[float, ...]:
        """The noise level of each evaluation, (NFE,)."""
        return (self.sigma, *(row.sigma for row in self.rows if row.evaluate))

    @cached_property
    def guided(self) -> bool:
        """Whether any row weighs guidance differences."""
        return any(row.guidance_weights for row in self.rows)

    @cached_property
    def sigmas(self) -> tuple[float, ...]:
        """The step grid: the start and the result of each step, (steps + 1,)."""
        return (self.sigma, *(row.sigma for row in self.rows if row.commit))

    @cached_property
    def levels(self) -> tuple[float, ...]:
        """Every noise level that the start or a row's result lies at, descending, each once."""
        return tuple(sorted({self.sigma, *(row.sigma for row in self.rows)}, reverse=True))

    @cached_property
    def last_use(self) -> tuple[int, ...]:
        """For each evaluation, the last row that refers to it (-1 if none does)."""
        last = [-1] * self.evaluations
        for number, row in enumerate(self.rows):
            for index, _ in (*row.weights, *row.guidance_weights):
                last[index] = number
        return tuple(last)

    def in_terms_of(self, prediction: Prediction) -> "Tableau":
        """The same solver with its weights in the other form."""
        if prediction == self.prediction:
            return self
        converter = Converter(self, prediction)
        for row in self.rows:
            converter.append(converter.convert(row))
        return converter.tableau(self.model_sigmas)


class Converter:
    """Builds a tableau row by row in a chosen form out of rows given in another.

    Going from D to ε and back needs the point x_j at which each evaluation was made, and that point depends on the rows
    actually taken. So rows are converted one at a time: ``convert`` states what the base solver would do from here, and
    ``append`` takes the row that is really used, which may be an edited one.
    """

    def __init__(self, base: Tableau, prediction: Prediction):
        if not base.consistent and prediction != base.prediction:
            raise TableauError(
                "This stock solver's weights do not sum as they should, so it has no 'data' form. Use directions='noise'."
            )
        self._base = base
        self._prediction: Prediction = prediction
        self._rows: list[Row] = []
        self._sigma = base.sigma  # of the current base point
        self._evaluations = 1
        self._shifted = False
        # Where points lie, as combinations of the outputs in the target form and, after those, of the guidance differences:
        # x/σ minus its start for "data", x for "noise".
        self._position = np.zeros(2 * base.evaluations)
        self._positions = [self._position]

    def convert(self, row: Row) -> Row:
        """The base solver's next row in the target form, from the points reached so far."""
        if self._base.prediction == self._prediction:
            return row
        if self._shifted and any(index == 0 for index, _ in row.weights):
            raise TableauError(
                "The rows of this solver go back to its first output, which a correction of the first step by the noisy start "
                "does not allow. Leave the first step as it is, or take a solver that is given in noise outputs."
            )
        sigmas, count = self._base.evaluation_sigmas, self._base.evaluations
        total = np.zeros(2 * count)
        for index, weight in row.weights:
            total += weight * (self._positions[index] - self._position)
            total[index] -= weight * sigmas[index] if self._prediction == "noise" else weight / sigmas[index]
        for index, weight in row.guidance_weights:
            total[count + index] += weight
        return Row(row.sigma, sparse(total[:count]), row.evaluate, row.commit, sparse(total[count:]), row.base)

    def append(self, row: Row) -> None:
        """Take this row, given in the target form."""
        self._rows.append(row)
        self._shifted |= row.base != 1  # points from before are no combination of outputs as seen from those after it
        self._evaluations += row.evaluate
        if self._base.prediction != self._prediction:
            position, count = self._position.copy(), self._base.evaluations
            scale = 1.0 if self._prediction == "noise" or not row.sigma else 1 / row.sigma
            for index, weight in (*row.weights, *((count + index, weight) for index, weight in row.guidance_weights)):
                position[index] += weight * scale
            if row.evaluate:
                self._positions.append(position)
            if row.commit:
                self._position = position
        if row.commit:
            self._sigma = row.sigma

    @property
    def sigma(self) -> float:
        """Noise level of the current base point."""
        return self._sigma

    @property
    def evaluations(self) -> int:
        """Evaluations made so far."""
        return self._evaluations

    def tableau(self, model_sigmas: tuple[float, ...] | None = None) -> Tableau:
        """The rows so far as a solver; ``model_sigmas`` as in ``Tableau``."""
        return Tableau(self._base.sigma, tuple(self._rows), self._prediction, self._base.consistent, model_sigmas)


def sparse(weights: Array) -> Weights:
    """The nonzero entries of a dense row of weights."""
    return tuple((int(j), float(weights[j])) for j in np.flatnonzero(weights))
