"""Derivatives of where a sampler ends by all of its numbers, from few calls of the model.

For every number there is a copy of the sampler with that number moved a little. All copies go along the rows in lock-step with
the sampler itself (forward mode: nothing goes back through the model, and no gradient of it is asked for). What the model would
answer them is nearly linear in how far they are from the sampler, and together they are off in few directions. So at each
evaluation the model is differentiated, by finite differences, in the directions that hold most of that and in the noise level
that it is told; the copies' answers are combined from these. With 12 directions that takes up to 14 calls at each evaluation,
however many numbers there are.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dode.correction import Parameters
from dode.fit.end_point import Targets, sketch
from dode.fit.free_parameters import FreeParameters
from dode.fit.model_calls import ModelCalls
from dode.sampling import Guided, Walk, drive
from dode.tableau import Array, Tableau

Answers = tuple[Tensor, ...]  # the denoised output and, under guidance, the guidance difference
_LENGTH = 0.02  # of the finite differences there, times the length of the point
_LEVEL = 0.02  # of that in the noise level, in ln σ
_MEMORY = 2**30  # bytes that the copies may take at once
_COPIES_OF = 10  # tensors that each of them keeps, about


def derivatives(targets: Targets, model: ModelCalls, free: FreeParameters, offsets: Array) -> tuple[Tensor, Tensor]:
    """Where the sampler at these offsets ends, (N, …), and the derivatives of that by each number, sketched:
    (N, P, min(D, SKETCH)) in float32 at least.

    Raises:
        NotFiniteError: the model breaks down there, or right beside it.
    """
    here = free.parameters(offsets)
    assert here is not None
    tableau = here.tableau()
    changes = [_change(tableau, *free.nudge(offsets, p)) for p in range(len(offsets))]
    numel = targets.noise[0].numel()
    model.expect(len(targets.order) * calls(tableau, [change for change in changes if change], min(free.derivatives, numel)))
    few = max(_MEMORY // (numel * targets.noise.element_size() * len(changes) * _COPIES_OF), 1)
    batches = torch.cat(targets.batches).split(min(few, len(targets.batches[0])))
    found = model.share(batches, lambda batch: _Copies(targets, model, batch, tableau, changes, free).run())
    ends, slopes = zip(*found, strict=True)
    return torch.cat(ends), torch.cat(slopes)


@dataclass(frozen=True)
class _Change:
    """A table with one number moved by ``step``.

    Attributes:
        row: the first row from which on it is another table; None: from the start.
        off: the first evaluation that is made at another point.
    """

    tableau: Tableau
    step: float
    row: int | None
    off: int


def calls(tableau: Tableau, changes: list[_Change], directions: int) -> int:
    """Evaluations a sample that the derivatives take, with so many directions at most."""
    found = tableau.evaluations
    for number in range(tableau.evaluations):
        found += any(_told(change.tableau)[number] != _told(tableau)[number] for change in changes)
        found += min(sum(change.off <= number for change in changes), directions)
    return found


def _told(tableau: Tableau) -> tuple[float, ...]:
    return tableau.model_sigmas or tableau.evaluation_sigmas


def _change(tableau: Tableau, moved: Parameters | None, step: float) -> _Change | None:
    """What moving a number does to a table, the flags of whose rows stay as they are."""
    if moved is None:
        return None
    other = moved.tableau()
    told = [mine != its for mine, its in zip(_told(tableau), _told(other), strict=True)]
    if tableau.sigma != other.sigma:
        return _Change(other, step, None, 0)
    if told[0]:
        return _Change(other, step, None, 1)
    evaluation = 0
    for number, (row, changed) in enumerate(zip(tableau.rows, other.rows, strict=True)):
        evaluation += row.evaluate
        if row != changed:
            return _Change(other, step, number, evaluation if row.evaluate else evaluation + 1)
        if row.evaluate and told[evaluation]:
            return _Change(other, step, number, evaluation + 1)
    return _Change(other, step, len(tableau.rows) - 1, evaluation + 1)


class _Lane:
    """One walk along the rows of its table, which waits wherever the model is to be evaluated."""

    def __init__(self, walk: Walk, tableau: Tableau, first: int, forget: bool):
        self.walk, self.tableau, self.y = walk, tableau, walk.base
        self._rows: Iterator[int] = drive(walk, tableau, self._wait, first, forget)
        self._before = False

    def _wait(self, _: int, y: Tensor) -> None:
        self.y = y

    def advance(self) -> None:
        """Take the next row."""
        if not self._before:
            next(self._rows)
            self._before = True
        next(self._rows, None)

    def record(self, number: int, answers: Answers) -> None:
        """Take what the model says at the point where this waits."""
        output = Guided(*answers) if len(answers) == 2 else answers[0]
        self.walk.guided = isinstance(output, Guided)
        self.walk.record(self.y, self.tableau.evaluation_sigmas[number], output)


class _Copies:
    """The sampler on one batch, and its copies beside it."""

    def __init__(
        self,
        targets: Targets,
        model: ModelCalls,
        batch: Tensor,
        tableau: Tableau,
        changes: list[_Change | None],
        free: FreeParameters,
    ):
        self.targets, self.batch, self.changes, self.free = targets, batch, changes, free
        self.model = model.on(batch)
        self.sampler = self._begin(tableau, forget=False)  # a copy may need what the sampler itself does not
        self.lanes: dict[int, _Lane] = {}

    def run(self) -> tuple[Tensor, Tensor]:
        """Where the sampler ends (B, …), and the sketched derivatives of that (B, P, m)."""
        tableau = self.sampler.tableau
        for p, change in enumerate(self.changes):
            if change is not None and change.row is None:
                self.lanes[p] = self._begin(change.tableau, forget=True)
        self._evaluate(0)
        for number, row in enumerate(tableau.rows):
            for p, change in enumerate(self.changes):
                if change is not None and change.row == number:
                    self.lanes[p] = _Lane(self.sampler.walk.copy(), change.tableau, number, forget=True)
            for lane in (self.sampler, *self.lanes.values()):
                lane.advance()
            if row.evaluate:
                self._evaluate(self.sampler.walk.evaluations)
        end = self.sampler.walk.base
        columns = [
            torch.zeros_like(sketch(end)) if change is None else sketch(self.lanes[p].walk.base - end) / change.step
            for p, change in enumerate(self.changes)
        ]
        return end, torch.stack(columns, dim=1)

    def _begin(self, tableau: Tableau, forget: bool) -> _Lane:
        x = self.targets.start(self.targets.noise[self.batch], tableau.sigma)
        return _Lane(Walk(x, tableau.sigma, tableau.prediction), tableau, 0, forget)

    def _call(self, y: Tensor, sigma: float) -> Answers:
        output = self.model(y, y.new_full((len(y),), sigma))
        return tuple(output) if isinstance(output, Guided) else (output,)

    def _evaluate(self, number: int) -> None:
        """Evaluation ``number`` of the sampler and of all copies."""
        y, level = self.sampler.y, _told(self.sampler.tableau)[number]
        answers = self._call(y, level)
        self.sampler.record(number, answers)
        shifts = {p: math.log(_told(lane.tableau)[number] / level) for p, lane in self.lanes.items()}
        by_level: list[Tensor] = []
        if any(shifts.values()):
            step = -_LEVEL if level * math.exp(-_LEVEL) >= self.free.lowest else _LEVEL
            there = self._call(y, level * math.exp(step))
            by_level = [(other - here) / step for other, here in zip(there, answers, strict=True)]
        off = [p for p in self.lanes if self._off(p) <= number]
        moved = iter(self._beside(y, level, answers, torch.stack([self.lanes[p].y - y for p in off], dim=1)) if off else ())
        for p, lane in self.lanes.items():
            found = next(moved) if p in off else answers
            if shifts[p]:
                found = tuple(part + slope * shifts[p] for part, slope in zip(found, by_level, strict=True))
            lane.record(number, found)

    def _off(self, p: int) -> int:
        change = self.changes[p]
        assert change is not None
        return change.off

    def _beside(self, y: Tensor, level: float, answers: Answers, away: Tensor) -> list[Answers]:
        """What the model would say at y + ``away``, (B, A, …), to first order: A answers."""
        away = away.flatten(2)
        directions, parts = _directions(away, self.free.derivatives)
        length = _LENGTH * y.flatten(1).norm(dim=1)[:, None]
        slopes: list[list[Tensor]] = [[] for _ in answers]
        for direction in directions.unbind(1):
            there = self._call((y.flatten(1) + length * direction).reshape(y.shape), level)
            for its, other, here in zip(slopes, there, answers, strict=True):
                its.append((other - here).flatten(1) / length)
        found = [
            here.flatten(1)[:, None] + torch.einsum("bar,brd->bad", parts, torch.stack(its, dim=1))
            for here, its in zip(answers, slopes, strict=True)
        ]
        if away.shape[1] > directions.shape[1]:
            # In what is left the denoised output follows as it does in the direction that holds least.
            last, its = directions[:, -1], slopes[0][-1]
            follows = (last * its).sum(1) / last.square().sum(1).clamp_min(torch.finfo(last.dtype).tiny)
            left = away - torch.einsum("bar,brd->bad", parts, directions)
            found[0] += follows[:, None, None] * left
        return list(zip(*([each.reshape(y.shape) for each in part.unbind(1)] for part in found), strict=True))


def _directions(away: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The directions that hold most of some vectors (B, A, D): of length 1, (B, R, D), R up to ``most``; and how much of each
    vector lies in each of them, (B, A, R).

    A vector counts by the root of its length: of a short one the derivatives are wanted too.
    """
    count = away.shape[1]
    seen = sketch(away.flatten(0, 1)).reshape(len(away), count, -1).double()
    gram = seen @ seen.mT
    lengths = gram.diagonal(dim1=1, dim2=2).sqrt()
    scale = torch.where(lengths > 1e-12 * lengths.amax(1, keepdim=True), lengths.rsqrt(), 0.0)
    values, vectors = torch.linalg.eigh(gram * scale[:, :, None] * scale[:, None, :])
    most = min(most, count, away.shape[2])
    values, vectors = values.flip(-1)[:, :most], vectors.flip(-1)[:, :, :most]
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    vectors = vectors * largest.sign()  # of two opposite ones always the same
    usable = values > 1e-10 * values[:, :1]
    shares = scale[:, :, None] * vectors * torch.where(usable, values.clamp_min(1e-300).rsqrt(), 0.0)[:, None, :]
    directions = torch.einsum("bar,bad->brd", shares.to(away), away)
    return directions, (gram @ shares).to(away)
