"""The closed form, in lock-step: where the teacher stands, the rows fitted to it one after the other, and what came of them.

All samples advance row by row on the student's own trajectory; at each row the residual to the teacher is regressed on the
row's directions, the solution is applied, and only then does the next row start. Sums are kept per sample in float64, so the
result does not depend on the micro-batch size.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dode.correction import Parameters, RowEditor
from dode.errors import NotFiniteError
from dode.fit import ranks
from dode.fit.held_out import squares
from dode.fit.least_squares import solve_normal_equations
from dode.fit.problem import Problem
from dode.sampling import Walk
from dode.tableau import Array, Row, Tableau, Weights
from dode.teacher import Teacher, trajectory

_STRENGTHS = (1.0, 0.5, 0.25)


@dataclass(frozen=True)
class Targets:
    """Where the teacher stands, (N, …), by noise level: after the whole interval that ends there, and after half of it."""

    after: dict[float, Tensor]
    half: dict[float, Tensor]

    def of(self, row: Row) -> Tensor:
        """What a row is fitted to."""
        return self.half.get(row.sigma, self.after[row.sigma]) if not row.commit else self.after[row.sigma]


@dataclass(frozen=True)
class Rows:
    """The fitted rows.

    Attributes:
        values: λ, (rows, taps).
        kept: which part of each row's correction the guard kept, (rows,).
        errors: mean squared distance to the teacher at the end, (N,).
    """

    values: Array
    kept: tuple[float, ...]
    errors: Array


@dataclass(frozen=True)
class Check:
    """The last stage's findings: errors after each step, how far the teacher is from one of half its substeps, and how much of
    the correction was kept."""

    teacher_error: float
    base: tuple[float, ...]
    distilled: tuple[float, ...]
    strength: float


class ClosedForm:
    """What all fits on one set of samples share.

    Args:
        problem: the model and the samples, noisy starts (N, …).
        sigma_min: as in ``nested_grid``.
        taps, ridge, guard: as in ``distill``.
    """

    def __init__(self, problem: Problem, sigma_min: float, taps: int, ridge: float, guard: bool):
        self.model, self.x, self.sigma_min = problem.model(), problem.x, sigma_min
        self.held, self.batches = problem.split()
        self.taps, self.ridge, self.strengths, self.guard = taps, ridge, _STRENGTHS if guard else _STRENGTHS[:1], guard
        self._taught: dict[tuple[Teacher, tuple[float, ...], bool], Targets] = {}

    def teach(self, teacher: Teacher, levels: tuple[float, ...], half_way: bool = False) -> Targets:
        """Run the teacher on all samples, once."""
        key = (teacher, levels, half_way)
        if key not in self._taught:
            self._taught[key] = self._teach(teacher, levels, half_way)
        return self._taught[key]

    def _teach(self, teacher: Teacher, levels: tuple[float, ...], half_way: bool) -> Targets:
        model, x = self.model, self.x
        fine, parts = teacher.tableau(levels, self.sigma_min), 2 if half_way else 1
        model.enter("teacher", model.counts.get("teacher", 0) + fine.evaluations * len(x))
        every = teacher.substeps // parts
        found = torch.empty(-(-(len(fine.sigmas) - 1) // every), *x.shape, dtype=x.dtype, device=x.device)
        parts_of = model.share(self.batches, lambda batch: trajectory(model.on(batch), x[batch], fine, every))
        found[:, torch.cat(self.batches)] = torch.cat([torch.as_tensor(each) for each in parts_of], dim=1)
        # The last interval may be left whole, so that it has no half.
        ends = [min((i + 1) * parts, len(found)) - 1 for i in range(len(levels) - 1)]
        after = {level: found[end] for level, end in zip(levels[1:], ends, strict=True)}
        half = {level: found[i * parts] for i, level in enumerate(levels[1:])} if half_way else {}
        return Targets(after, half)

    def rows(self, editor: RowEditor, targets: Targets, stage: str = "student") -> Rows:
        """The lock-step pass.

        Raises:
            NotFiniteError: the model breaks down on the way.
        """
        model, x, base = self.model, self.x, editor.base
        model.enter(stage, model.counts.get(stage, 0) + base.evaluations * len(x))
        mine = model.part(self.batches)
        walks = [Walk(x[batch], base.sigma, editor.form) for batch in mine]
        self._evaluate(walks, mine, [walk.base for walk in walks], base.sigma)
        values, kept, elements = np.zeros((len(base.rows), self.taps)), list[float](), x[0].numel()
        after = np.zeros(len(x))
        for number, base_row in enumerate(base.rows):
            row, h, differences = editor.begin(base_row)
            differences = differences[: self.taps]
            usable = len(differences)
            target = targets.of(row)
            grams = [_gram(walk, row, target[batch], h, differences) for walk, batch in zip(walks, mine, strict=True)]
            gram = np.concatenate([each for theirs in ranks.gathered(grams) for each in theirs])
            values[number, :usable], part = ranks.agreed(self._solve(gram))
            kept.append(part)
            change = np.append(-values[number, :usable], 1.0)
            after = np.einsum("i,bij,j->b", change, gram, change) / elements
            if model.progress is not None and stage == "student":
                model.progress("fit", number + 1, len(base.rows))
            row = editor.take(row, values[number])
            results = [walk.advance(row) for walk in walks]
            if row.evaluate:
                self._evaluate(walks, mine, results, row.sigma)
        return Rows(values, tuple(kept), after)

    def _evaluate(self, walks: list[Walk], batches: list[Tensor], points: list[Tensor], sigma: float) -> None:
        def record() -> list[Tensor]:
            for walk, batch, y in zip(walks, batches, points, strict=True):
                walk.record(y, sigma, self.model.on(batch)(y, y.new_full((len(y),), sigma)))
            return []

        self.model.together(record)

    def _solve(self, gram: Array) -> tuple[Array, float]:
        """Fit on all samples but the held-out ones; keep what lowers the squared error on those."""
        usable = gram.shape[1] - 1
        if usable == 0:
            return np.zeros(0), 1.0
        fitted = np.delete(gram, self.held, axis=0).sum(axis=0)
        values = solve_normal_equations(fitted[:usable, :usable], fitted[:usable, usable], self.ridge)
        judge = gram[self.held].sum(axis=0)
        for part in self.strengths:
            v = part * values
            change = v @ judge[:usable, :usable] @ v - 2 * v @ judge[:usable, usable]
            if change < 0 or not self.guard:
                return v, part
        return np.zeros(usable), 0.0

    def check(self, parameters: Parameters, teacher: Teacher, targets: Targets) -> Check:
        """Run base and distilled solver on the held-out samples, end to end, and the teacher with half its substeps."""
        base, model = parameters.base(), self.model
        levels, steps = base.levels, base.sigmas[1:]
        coarse = teacher.halved().tableau(levels, self.sigma_min)
        model.enter("check", (2 * base.evaluations + coarse.evaluations) * len(self.held))
        before = self._errors(base, steps, targets)
        after, strength = before, 0.0
        if parameters.values.any():
            for strength in self.strengths:
                with suppress(NotFiniteError):
                    after = self._errors(parameters.tableau(strength=strength), steps, targets)
                    if after[-1] < before[-1] or not self.guard:
                        break
            else:
                after, strength = before, 0.0
        halved = self._errors(coarse, [levels[-1]], targets, len(coarse.sigmas) - 1)
        return Check(halved[-1], before, after, strength)

    def _errors(self, tableau: Tableau, sigmas: Sequence[float], targets: Targets, every: int = 1) -> tuple[float, ...]:
        """RMS distances to the teacher on the held-out samples after every ``every``-th step, which end at these levels."""

        def one(batch: Tensor) -> Array:
            results = trajectory(self.model.on(batch), self.x[batch], tableau, every)
            pairs = zip(results, sigmas, strict=True)
            return np.stack([squares(result - targets.after[sigma][batch]) for result, sigma in pairs])

        found = self.model.share(torch.tensor(self.held).split(len(self.batches[0])), one)
        return tuple(_rms(each / self.x[0].numel()) for each in np.concatenate(found, axis=1))


def _rms(errors: Array) -> float:
    """Root of the mean of mean squares (B,); rounding may leave one a little below 0."""
    return float(np.sqrt(max(errors.mean(), 0.0)))


def _gram(walk: Walk, row: Row, target: Tensor, h: float, differences: list[Weights]) -> Array:
    """Per sample, inner products of h times the differences and, last, of the row's residual to the target: float64
    (B, k+1, k+1)."""
    vectors = [h * walk.weigh(each) for each in differences]
    vectors.append(target.double() - walk.combine(row).double())
    stacked = torch.stack([vector.flatten(1) for vector in vectors], dim=1)
    return (stacked @ stacked.mT).cpu().numpy()
