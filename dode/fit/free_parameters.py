"""The numbers of a sampler that a fit may move, as one vector."""

import math
from dataclasses import dataclass, replace

import numpy as np

from dode.correction import MAX_TOLD_RATIO, Parameters, available_taps
from dode.errors import DodeError
from dode.fit.least_squares import solve_normal_equations
from dode.tableau import Array

_STEP = {"tap": 0.03, "guidance": 0.05, "sigma": 0.02, "told": 0.02}  # of the finite differences
_LONGEST = 1.0  # a step changes no number by more
_CLOSEST = 0.25  # of the distance (in ln σ) between neighbouring noise levels is left by a step


@dataclass(frozen=True)
class Freedom:
    """The numbers of a sampler that the fit may move, and how hard it tries.

    Attributes:
        taps: differences of successive outputs for each row.
        grid: the interior noise levels.
        start: the first noise level too; the noise is scaled along. It moves down only.
        guidance_taps: differences of both outputs of guidance for each row, where the model gives both outputs.
        model_sigmas: the noise level that the model is told.
        starts: undistilled solvers from which a draft may set out, on the samples of the first round; the best draft goes on.
        sparing: a further draft is made only where the ones before gained little, and later rounds do with fewer samples then.
        rounds: in how many rounds the fitted samples are taken in; 0 fits nothing.
        derivatives: in how many directions the model is differentiated at each evaluation, at most (``dode.fit.derivatives``).
        steps: Gauss-Newton steps that a round tries, at most.
        again: how often derivatives are computed anew for all samples afterwards.

    Example:
        >>> Freedom(taps=1, grid=False, start=False).guidance_taps
        2
    """

    taps: int = 3
    grid: bool = True
    start: bool = True
    guidance_taps: int = 2
    model_sigmas: bool = True
    starts: int = 2
    sparing: bool = True
    rounds: int = 2
    derivatives: int = 12
    steps: int = 4
    again: int = 0


class FreeParameters:
    """A sampler as a vector: offsets from the parameters it starts from, (P,). No noise level leaves ``sigma_range``.

    Attributes:
        names: kind, row or evaluation, and tap of each number.
        derivatives: as in ``Freedom``.
    """

    def __init__(self, start: Parameters, freedom: Freedom, guided: bool, sigma_range: tuple[float, float]):
        self.start = start
        positive = [sigma for sigma in start.sigmas if sigma > 0]
        # A start may lie a rounding error outside.
        self.lowest, self.highest = min(positive[-1], sigma_range[0]), max(positive[0], sigma_range[1])
        base = start.base()
        rows, available = len(base.rows), available_taps(base)
        names = [("tap", row, k) for row in range(rows) for k in range(min(freedom.taps, available[row]))]
        if guided:
            names += [
                ("guidance", row, k) for row in range(rows) for k in range(min(freedom.guidance_taps, available[row] + 1))
            ]
        last = len(start.sigmas) - (start.sigmas[-1] == 0)
        names += [("sigma", i, 0) for i in range(0 if freedom.start else 1, last if freedom.grid else 1)]
        if freedom.model_sigmas:
            names += [("told", i, 0) for i in range(base.evaluations)]
        self.names, self.derivatives = names, freedom.derivatives
        self.steps = np.array([_STEP[kind] for kind, _, _ in names])
        known = start.guidance.shape[1] if start.guidance is not None else 0
        self.guidance_taps = max(freedom.guidance_taps, known) if guided else 0
        self.taps, self.told = max(freedom.taps, start.values.shape[1]), freedom.model_sigmas or start.model_sigmas is not None
        levels = np.array(base.evaluation_sigmas)
        self.told_from = np.log(np.array(start.model_sigmas or levels) / levels)

    def parameters(self, offsets: Array) -> Parameters | None:
        """The sampler at these offsets, or None if there is none: noise levels out of order or out of range."""
        start = self.start
        rows = len(start.values)
        values = np.zeros((rows, self.taps))
        values[:, : start.values.shape[1]] = start.values
        guidance = np.zeros((rows, self.guidance_taps)) if self.guidance_taps else None
        if guidance is not None and start.guidance is not None:
            guidance[:, : start.guidance.shape[1]] = start.guidance
        sigmas, told = np.array(start.sigmas), self.told_from.copy()
        for (kind, i, k), value in zip(self.names, offsets, strict=True):
            if kind == "tap":
                values[i, k] += value
            elif kind == "guidance" and guidance is not None:
                guidance[i, k] += value
            elif kind == "sigma":
                sigmas[i] *= math.exp(value)
            else:
                told[i] += value
        inside = self.lowest * (1 - 1e-9) <= sigmas[sigmas > 0].min() and sigmas[0] <= self.highest * (1 + 1e-9)
        if not inside or np.abs(told).max() > math.log(MAX_TOLD_RATIO):
            return None
        sigmas = np.where(sigmas > 0, sigmas.clip(self.lowest, self.highest), 0.0)
        try:
            moved = replace(start, sigmas=tuple(sigmas.tolist()), values=values, guidance=guidance)
            if not self.told:
                return moved
            levels = np.array(moved.base().evaluation_sigmas) * np.exp(told)
            return replace(moved, model_sigmas=tuple(levels.clip(self.lowest, self.highest).tolist()))
        except DodeError:
            return None

    def nudge(self, offsets: Array, p: int) -> tuple[Parameters | None, float]:
        """The sampler with one number moved a little, and by how much: noise levels downwards, where there is no bound."""
        way = -1 if self.names[p][0] in ("sigma", "told") else 1
        for step in (way * self.steps[p], -way * self.steps[p]):
            moved = self.parameters(offsets + step * np.eye(len(offsets))[p])
            if moved is not None:
                return moved, float(step)
        return None, 1.0

    def step(self, gram: Array, offsets: Array, ridge: float, damping: float) -> Array:
        """The Gauss-Newton step from here; a number that would cross a bound is held there, and the rest solved for without
        it."""
        lower, upper = self._bounds(offsets)
        free, at_bounds = np.ones(len(offsets), dtype=bool), np.zeros(len(offsets))
        while True:
            step, moment = at_bounds.copy(), gram[:-1, -1] - gram[:-1, :-1] @ at_bounds
            if free.any():
                matrix = gram[:-1, :-1][np.ix_(free, free)]
                step[free] = damped_step(matrix, moment[free], offsets[free], ridge, damping)
            inside = step.clip(lower, upper)
            over = free & (np.abs(step - inside) > 1e-12)
            if not over.any():
                break
            free, at_bounds = free & ~over, np.where(over, inside, at_bounds)
        return step * min(1.0, _LONGEST / max(np.abs(step).max(), 1e-300), self._room(offsets, step))

    def _log_sigmas(self, offsets: Array) -> Array:
        found = np.log(np.array([s for s in self.start.sigmas if s > 0]))
        for (kind, i, _), offset in zip(self.names, offsets, strict=True):
            if kind == "sigma":
                found[i] += offset
        return found

    def _bounds(self, offsets: Array) -> tuple[Array, Array]:
        """How far each number may still go down and up, (P,): the outer noise levels and those that the model is told have
        bounds."""
        levels, evaluated = self._log_sigmas(offsets), self.start.base().evaluation_sigmas
        grid = np.log(np.array([s for s in self.start.sigmas if s > 0]))
        shift = np.interp(np.log(evaluated), grid[::-1], (levels - grid)[::-1])  # a stage between two levels moves with them
        low, high = math.log(self.lowest), math.log(self.highest)
        lower, upper = np.full(len(self.names), -np.inf), np.full(len(self.names), np.inf)
        for p, (kind, i, _) in enumerate(self.names):
            if kind == "sigma" and i == 0:
                upper[p] = high - levels[0]
            if kind == "sigma" and i == len(levels) - 1:
                lower[p] = low - levels[-1]
            if kind == "told":
                told = math.log(evaluated[i]) + shift[i] + self.told_from[i] + offsets[p]
                lower[p], upper[p] = low - told, high - told
        return np.minimum(lower, 0.0), np.maximum(upper, 0.0)

    def _room(self, offsets: Array, step: Array) -> float:
        """How much of a step leaves neighbouring noise levels at least a part of the distance that they have."""
        log_sigmas = self._log_sigmas(offsets)
        moves = np.zeros_like(log_sigmas)
        for (kind, i, _), change in zip(self.names, step, strict=True):
            if kind == "sigma":
                moves[i] = change
        gaps, closing = -np.diff(log_sigmas), np.diff(moves)
        rooms = (1 - _CLOSEST) * gaps[closing > 0] / closing[closing > 0]
        return float(rooms.min()) if len(rooms) else 1.0


def damped_step(matrix: Array, moment: Array, offsets: Array, ridge: float, damping: float) -> Array:
    """The Gauss-Newton step: all numbers are drawn to where they started by the ridge, and the step is shortened by the
    damping."""
    pull = ridge * np.diag(matrix)
    return solve_normal_equations(matrix + np.diag(pull), moment - pull * offsets, damping)
