"""End-point refinement: Gauss-Newton (Levenberg-Marquardt) on the final sample, over all numbers of a sampler at once.

Derivatives are finite differences: changing a row reruns only what comes after it, so no backpropagation and no gradient of the
model is needed. How strongly λ and γ shrink towards the theory is chosen by cross-validation over the samples, from the
same sums; samples that are not fitted judge every step.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from dode.correction import MAX_TOLD_RATIO, Parameters, available_taps
from dode.distill import squares
from dode.errors import DodeError, NotFiniteError
from dode.least_squares import solve_normal_equations
from dode.metered import Metered
from dode.sampling import Guided, Walk, drive
from dode.tableau import Array, Tableau

Start = Callable[[Tensor, float], Tensor]
_STEP = {"tap": 0.03, "guidance": 0.05, "sigma": 0.02, "told": 0.02}  # of the finite differences
_RIDGES = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1)
# Steps that are tried: a step changes no number by more than the first, and its damping is the last one's times the second.
_LENGTHS = ((1.0, 0.1), (1.0, 1.0), (1.0, 10.0), (0.3, 10.0), (0.1, 100.0), (0.03, 1000.0))
_CLOSEST = 0.25  # of the distance (in ln σ) between neighbouring noise levels is left by a step
_ENOUGH = 0.003  # relative gain below which the fit stops
_FOLDS = 4


@dataclass(frozen=True)
class Freedom:
    """The numbers of a sampler that the fit may move.

    Attributes:
        taps: differences of successive outputs for each row.
        grid: the interior noise levels.
        start: the first noise level too; the noise is scaled along. It moves down only.
        guidance: taps of the guidance channel, where the model gives both outputs.
        model_sigmas: the noise level that the model is told.
        iterations: Gauss-Newton steps at most.
        starts: undistilled solvers, the best on the samples, that the fit starts from; the best end is taken.
    """

    taps: int = 3
    grid: bool = True
    start: bool = True
    guidance: int = 2
    model_sigmas: bool = False
    iterations: int = 6
    starts: int = 1


@dataclass(frozen=True)
class Targets:
    """What the fit works on.

    Attributes:
        noise: unit noise (N, …).
        start: ``start(noise, sigma)`` is the noisy start at a noise level.
        ends: where the teacher ends, (N, …).
        highest: the model's highest noise level.
        batches: indices of the samples, in micro-batches.
        held: indices of the samples that judge and are not fitted.
    """

    noise: Tensor
    start: Start
    ends: Tensor
    highest: float
    batches: list[Tensor]
    held: list[int]

    def errors(self, model: Metered, tableau: Tableau) -> Array:
        """Mean squared distance to the teacher of each sample, (N,); infinite if the model returned NaN or infinity."""
        found = []
        try:
            for batch in self.batches:
                walk = _begin(model, batch, self.start(self.noise[batch], tableau.sigma), tableau)
                found.append(squares(_finish(model, batch, walk, tableau) - self.ends[batch]))
        except NotFiniteError:
            return np.full(sum(len(batch) for batch in self.batches), np.inf)
        return np.concatenate(found) / self.noise[0].numel()


class Numbers:
    """A sampler as a vector: offsets from the parameters it starts from, (P,). No noise level goes above ``highest``."""

    def __init__(self, start: Parameters, freedom: Freedom, guided: bool, highest: float | None = None):
        self.start, self.highest = start, max(start.sigmas[0], highest or 0.0)  # a start may lie a rounding error above
        base = start.base()
        rows, available = len(base.rows), available_taps(base)
        names = [("tap", row, k) for row in range(rows) for k in range(min(freedom.taps, available[row]))]
        if guided:
            names += [("guidance", row, k) for row in range(rows) for k in range(min(freedom.guidance, available[row] + 1))]
        last = len(start.sigmas) - (start.sigmas[-1] == 0)
        names += [("sigma", i, 0) for i in range(0 if freedom.start else 1, last if freedom.grid else 1)]
        if freedom.model_sigmas:
            names += [("told", i, 0) for i in range(base.evaluations)]
        self.names = names
        self.steps = np.array([_STEP[kind] for kind, _, _ in names])
        self.shrunk = np.array([kind != "sigma" for kind, _, _ in names])
        known = start.guidance.shape[1] if start.guidance is not None else 0
        self.guidance = max(freedom.guidance, known) if guided else 0
        self.taps, self.told = max(freedom.taps, start.values.shape[1]), freedom.model_sigmas or start.model_sigmas is not None
        levels = np.array(base.evaluation_sigmas)
        self.told_from = np.log(np.array(start.model_sigmas or levels) / levels)

    def parameters(self, offsets: Array) -> Parameters | None:
        """The sampler at these offsets, or None if there is none: noise levels out of order or out of range."""
        start = self.start
        rows = len(start.values)
        values = np.zeros((rows, self.taps))
        values[:, : start.values.shape[1]] = start.values
        guidance = np.zeros((rows, self.guidance)) if self.guidance else None
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
        if sigmas[0] > self.highest or np.abs(told).max() > math.log(MAX_TOLD_RATIO):
            return None
        try:
            moved = replace(start, sigmas=tuple(sigmas.tolist()), values=values, guidance=guidance)
            if not self.told:
                return moved
            levels = np.array(moved.base().evaluation_sigmas) * np.exp(told)
            return replace(moved, model_sigmas=tuple(np.minimum(levels, self.highest).tolist()))
        except DodeError:
            return None

    def step(self, gram: Array, offsets: Array, ridge: float, damping: float, longest: float) -> Array:
        """The Gauss-Newton step from here, no longer than it may be. A first noise level at its upper bound stays there."""
        step = _solve(gram, offsets, self.shrunk, ridge, damping)
        bound = np.array([name == ("sigma", 0, 0) for name in self.names])
        room = math.log(self.highest / self.start.sigmas[0])
        over = bound & (offsets + step > room)
        if over.any():
            held, free = (room - offsets) * over, ~over
            moment = gram[:-1, -1] - gram[:-1, :-1] @ held
            inner = np.append(free, True)
            reduced = gram[np.ix_(inner, inner)].copy()
            reduced[:-1, -1] = moment[free]
            step = held
            step[free] = _solve(reduced, offsets[free], self.shrunk[free], ridge, damping)
        return step * min(1.0, longest / max(np.abs(step).max(), 1e-300), self._room(offsets, step))

    def _room(self, offsets: Array, step: Array) -> float:
        """How much of a step leaves neighbouring noise levels at least a part of the distance that they have."""
        log_sigmas = np.log([s for s in self.start.sigmas if s > 0])
        moves = np.zeros_like(log_sigmas)
        for (kind, i, _), offset, change in zip(self.names, offsets, step, strict=True):
            if kind == "sigma":
                log_sigmas[i] += offset
                moves[i] = change
        gaps, closing = -np.diff(log_sigmas), np.diff(moves)
        rooms = (1 - _CLOSEST) * gaps[closing > 0] / closing[closing > 0]
        return float(rooms.min()) if len(rooms) else 1.0


def refine(model: Metered, targets: Targets, start: Parameters, freedom: Freedom) -> tuple[Parameters, Array]:
    """Fit a sampler's numbers so that it ends where the teacher ends.

    Returns:
        The parameters with the least error on the held-out samples among those met on the way, the start included, and the
        mean squared error of each sample, (N,), there.
    """
    first = targets.batches[0][:1]
    model.enter("refine", model.counts.get("refine", 0))
    guided = _gives_guidance(model, targets, first, start)
    if not guided and start.guidance is not None:
        start = replace(start, guidance=None)
    numbers = Numbers(start, freedom, guided, targets.highest)
    fitted = np.setdiff1d(np.arange(len(targets.noise)), targets.held)
    offsets = np.zeros(len(numbers.names))
    best, errors = start, targets.errors(model, start.tableau())
    best_errors, damping = errors, 1e-2
    began = math.sqrt(errors[targets.held].mean())
    model.measured("refine", 0, began, began)
    for number in range(freedom.iterations):
        try:
            grams = _grams(model, targets, numbers, offsets)[fitted]
        except NotFiniteError:
            break
        gram = grams.sum(axis=0)
        ridge = _choose_ridge(grams, offsets, numbers.shrunk)
        # Trying a step costs little beside the derivatives, so several lengths are tried and the best is taken.
        tried: list[tuple[float, float, Array, Array, Parameters]] = []
        for longest, factor in _LENGTHS:
            step = numbers.step(gram, offsets, ridge, factor * damping, longest)
            moved = numbers.parameters(offsets + step)
            if moved is not None:
                after = targets.errors(model, moved.tableau())
                tried.append((float(after[fitted].mean()), factor, offsets + step, after, moved))
        if not tried:
            break
        left, factor, there, after, moved = min(tried, key=lambda found: found[0])
        gain = 1 - math.sqrt(left / max(errors[fitted].mean(), 1e-300))
        if gain <= 0:
            break
        offsets, errors, damping = there, after, min(max(factor * damping, 1e-6), 1e3)
        if errors[targets.held].mean() < best_errors[targets.held].mean():
            best, best_errors = moved, errors
        model.measured("refine", number + 1, began, math.sqrt(best_errors[targets.held].mean()))
        if gain < _ENOUGH:
            break
    return best, best_errors


def _solve(gram: Array, offsets: Array, shrunk: Array, ridge: float, damping: float) -> Array:
    """The Gauss-Newton step: λ and γ are drawn to 0 by the ridge, all steps are shortened by the damping."""
    matrix, moment = gram[:-1, :-1], gram[:-1, -1]
    pull = ridge * np.diag(matrix) * shrunk
    return solve_normal_equations(matrix + np.diag(pull), moment - pull * offsets, damping)


def _choose_ridge(grams: Array, offsets: Array, shrunk: Array) -> float:
    """The ridge whose step, fitted on part of the samples, leaves the least on the others, as far as first order tells."""
    folds = [np.arange(len(grams)) % _FOLDS == fold for fold in range(_FOLDS)]
    folds = [fold for fold in folds if fold.any() and not fold.all()]
    left = dict.fromkeys(_RIDGES, 0.0)
    for fold in folds:
        fitted, judge = grams[~fold].sum(axis=0), grams[fold].sum(axis=0)
        for ridge in _RIDGES:
            step = _solve(fitted, offsets, shrunk, ridge, 1e-6)
            left[ridge] += step @ judge[:-1, :-1] @ step - 2 * step @ judge[:-1, -1]
    return min(left, key=left.__getitem__)


def _grams(model: Metered, targets: Targets, numbers: Numbers, offsets: Array) -> Array:
    """Per sample, inner products of the end's derivatives by each number and, last, of what is missing: (N, P+1, P+1)."""
    here = numbers.parameters(offsets)
    assert here is not None
    tableau = here.tableau()
    changes = [_change(tableau, *_nudge(numbers, offsets, p)) for p in range(len(offsets))]
    cost = tableau.evaluations + sum(change.evaluations for change in changes if change)
    model.enter("refine", model.counts["refine"] + len(targets.noise) * cost)
    found = []
    for batch in targets.batches:
        snapshots: list[Walk] = []
        begun = _begin(model, batch, targets.start(targets.noise[batch], tableau.sigma), tableau)
        end = _finish(model, batch, begun, tableau, snapshots)
        columns = []
        for change in changes:
            if change is None:
                columns.append(torch.zeros_like(end))
                continue
            other = change.tableau
            if change.row is None:
                walk = _begin(model, batch, targets.start(targets.noise[batch], other.sigma), other)
            else:
                walk = snapshots[change.row].copy()
            columns.append((_finish(model, batch, walk, other, first=change.row or 0) - end) / change.step)
        columns.append(targets.ends[batch] - end)
        stacked = torch.stack([c.flatten(1) for c in columns], dim=1).double()
        found.append((stacked @ stacked.mT).cpu().numpy())
    return np.concatenate(found)


def _nudge(numbers: Numbers, offsets: Array, p: int) -> tuple[Parameters | None, float]:
    """The sampler with one number moved, forwards or, where that cannot be, backwards; and by how much."""
    for step in (numbers.steps[p], -numbers.steps[p]):
        moved = numbers.parameters(offsets + step * np.eye(len(offsets))[p])
        if moved is not None:
            return moved, float(step)
    return None, 1.0


@dataclass(frozen=True)
class _Change:
    """A table with one number moved by ``step``, and the first row from which on it is another; None: from the start."""

    tableau: Tableau
    row: int | None
    step: float

    @property
    def evaluations(self) -> int:
        """Those that have to be made again."""
        table = self.tableau
        return table.evaluations if self.row is None else sum(row.evaluate for row in table.rows[self.row :])


def _change(tableau: Tableau, moved: Parameters | None, step: float) -> _Change | None:
    if moved is None:
        return None
    other = moved.tableau()
    return _Change(other, _first_difference(tableau, other), step)


def _first_difference(tableau: Tableau, other: Tableau) -> int | None:
    """The first row from which on two tables with the same flags differ; None if they do so from the start."""
    told, others = (t.model_sigmas or t.evaluation_sigmas for t in (tableau, other))
    if told[0] != others[0] or tableau.sigma != other.sigma:
        return None
    evaluation = 0
    for number, (row, changed) in enumerate(zip(tableau.rows, other.rows, strict=True)):
        evaluation += row.evaluate
        if row != changed or (row.evaluate and told[evaluation] != others[evaluation]):
            return number
    return len(tableau.rows) - 1


def _begin(model: Metered, batch: Tensor, x: Tensor, tableau: Tableau) -> Walk:
    walk = Walk(x, tableau.sigma, tableau.prediction, guided=True)
    _evaluate(model, batch, walk, tableau, 0, x)
    return walk


def _evaluate(model: Metered, batch: Tensor, walk: Walk, tableau: Tableau, number: int, y: Tensor) -> None:
    told = (tableau.model_sigmas or tableau.evaluation_sigmas)[number]
    output = model.on(batch)(y, y.new_full((len(y),), told))
    walk.guided = walk.guided and isinstance(output, Guided)
    walk.record(y, tableau.evaluation_sigmas[number], output)


def _finish(
    model: Metered, batch: Tensor, walk: Walk, tableau: Tableau, snapshots: list[Walk] | None = None, first: int = 0
) -> Tensor:
    """Take a walk to the end; ``snapshots`` gets a copy of it before every row."""
    for _ in drive(walk, tableau, lambda n, y: _evaluate(model, batch, walk, tableau, n, y), first, snapshots is None):
        if snapshots is not None:
            snapshots.append(walk.copy())
    return walk.base


def _gives_guidance(model: Metered, targets: Targets, batch: Tensor, start: Parameters) -> bool:
    tableau = start.tableau()
    return _begin(model, batch, targets.start(targets.noise[batch], tableau.sigma), tableau).guided
