"""Where a sampler ends for many samples, and the derivatives of that by its numbers.

Derivatives are finite differences: changing a row reruns only what comes after it, so no backpropagation and no gradient of the
model is needed.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from dode.correction import Parameters
from dode.errors import NotFiniteError
from dode.fit.free_parameters import FreeParameters
from dode.fit.held_out import squares
from dode.metered import Metered
from dode.sampling import Guided, Walk, drive
from dode.tableau import Array, Tableau

Start = Callable[[Tensor, float], Tensor]
SKETCH = 4096  # numbers that are kept of a sample's end or of one of its derivatives


@dataclass(frozen=True)
class Targets:
    """What the fit works on.

    Attributes:
        noise: unit noise (N, …).
        start: ``start(noise, sigma)`` is the noisy start at a noise level.
        ends: where the teacher ends, (N, …).
        sigma_range: the model's lowest and highest noise level.
        batches: indices of the samples, in micro-batches.
        held: indices of the samples that judge and are not fitted.
    """

    noise: Tensor
    start: Start
    ends: Tensor
    sigma_range: tuple[float, float]
    batches: list[Tensor]
    held: list[int]

    def only(self, samples: list[int]) -> "Targets":
        """The same for some of the samples."""
        kept = set(samples)
        batches = list(torch.tensor(samples).split(len(self.batches[0])))
        return replace(self, batches=batches, held=[i for i in self.held if i in kept])

    @property
    def order(self) -> list[int]:
        """The samples in the order in which results hold them."""
        return torch.cat(self.batches).tolist()

    @property
    def fitted(self) -> list[int]:
        """The samples that do not judge, in that order."""
        judges = set(self.held)
        return [i for i in self.order if i not in judges]

    def run(self, model: Metered, tableau: Tableau) -> Tensor:
        """Where a sampler ends, (N, …)."""
        return torch.cat([self._finish(model, b, self._begin(model, b, tableau), tableau) for b in self.batches])

    def distances(self, ends: Tensor) -> Array:
        """Mean squared distance to the teacher of each sample, (N,)."""
        return squares(ends - self.ends[self.order]) / self.noise[0].numel()

    def errors(self, model: Metered, tableau: Tableau) -> Array:
        """The same for a sampler; infinite if the model returned NaN or infinity."""
        try:
            return self.distances(self.run(model, tableau))
        except NotFiniteError:
            return np.full(len(self.order), np.inf)

    def guided(self, model: Metered) -> bool:
        """Whether the model gives the guidance direction beside its output: one evaluation of one sample."""
        sample, highest = self.batches[0][:1], self.sigma_range[1]
        x = self.start(self.noise[sample], highest)
        return isinstance(model.on(sample)(x, x.new_full((1,), highest)), Guided)

    def derivatives(self, model: Metered, free: FreeParameters, offsets: Array) -> tuple[Tensor, Tensor]:
        """Where the sampler at these offsets ends, (N, …), and the derivatives of that by each number, sketched:
        (N, P, min(D, SKETCH)) in float32 at least."""
        here = free.parameters(offsets)
        assert here is not None
        tableau = here.tableau()
        changes = [_change(tableau, *free.nudge(offsets, p)) for p in range(len(offsets))]
        model.expect(len(self.order) * cost(tableau, changes))
        ends, slopes = [], []
        for batch in self.batches:
            snapshots: list[Walk] = []
            end = self._finish(model, batch, self._begin(model, batch, tableau), tableau, snapshots)
            here_sketched, columns = sketch(end), []
            for change in changes:
                if change is None:
                    columns.append(torch.zeros_like(here_sketched))
                    continue
                other = change.tableau
                walk = self._begin(model, batch, other) if change.row is None else snapshots[change.row].copy()
                columns.append(sketch(self._finish(model, batch, walk, other, first=change.row or 0) - end) / change.step)
            ends.append(end)
            slopes.append(torch.stack(columns, dim=1))
        return torch.cat(ends), torch.cat(slopes)

    def _begin(self, model: Metered, batch: Tensor, tableau: Tableau) -> Walk:
        x = self.start(self.noise[batch], tableau.sigma)
        walk = Walk(x, tableau.sigma, tableau.prediction, guided=True)
        _evaluate(model, batch, walk, tableau, 0, x)
        return walk

    def _finish(
        self, model: Metered, batch: Tensor, walk: Walk, tableau: Tableau, snapshots: list[Walk] | None = None, first: int = 0
    ) -> Tensor:
        """Take a walk to the end; ``snapshots`` gets a copy of it before every row."""
        for _ in drive(walk, tableau, lambda n, y: _evaluate(model, batch, walk, tableau, n, y), first, snapshots is None):
            if snapshots is not None:
                snapshots.append(walk.copy())
        return walk.base


def sketch(ends: Tensor) -> Tensor:
    """Samples (N, …) as (N, min(D, SKETCH)), float32 or float64, in the CPU's memory.

    Larger ones are summed, with random signs, into random bins, which keeps inner products on average (count sketch: Charikar,
    Chen and Farach-Colton 2002; for least squares Clarkson and Woodruff 2013).
    """
    flat = ends.flatten(1).to("cpu", torch.promote_types(ends.dtype, torch.float32))
    size = flat.shape[1]
    if size <= SKETCH:
        return flat
    bins, signs = _bins(size)
    return flat.new_zeros(len(flat), SKETCH).index_add_(1, bins, flat * signs.to(flat))


@lru_cache(maxsize=1)
def _bins(size: int) -> tuple[Tensor, Tensor]:
    """The bin and the sign of each of a sample's numbers, (size,): the same for every sample and every derivative."""
    generator = torch.Generator().manual_seed(size)
    return torch.randint(SKETCH, (size,), generator=generator), torch.randint(2, (size,), generator=generator) * 2 - 1


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


def cost(tableau: Tableau, changes: list[_Change | None]) -> int:
    """Evaluations a sample that the derivatives take."""
    return tableau.evaluations + sum(change.evaluations for change in changes if change)


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


def _evaluate(model: Metered, batch: Tensor, walk: Walk, tableau: Tableau, number: int, y: Tensor) -> None:
    told = (tableau.model_sigmas or tableau.evaluation_sigmas)[number]
    output = model.on(batch)(y, y.new_full((len(y),), told))
    walk.guided = walk.guided and isinstance(output, Guided)
    walk.record(y, tableau.evaluation_sigmas[number], output)
