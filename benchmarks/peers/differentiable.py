"""Tables whose numbers are tensors: where a sampler ends can be differentiated by them, through the model.

The package itself never does so: its fits need no gradient of the model. Published peers of them do
(``benchmarks.peers.published``).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.models.bench_models import BenchModel
from dode.methods import build_tableau
from dode.sampling import Guided, Walk, drive
from dode.tableau import Array, Row, Tableau


@dataclass(frozen=True)
class SoftTableau:
    """A solver in data prediction like ``Tableau``, with float64 tensors of one element for its numbers.

    Attributes:
        sigma: noise level of the start.
        rows: ``Row``s whose noise level and weights are tensors.
        model_sigmas: the noise level that the model is told at each evaluation, (NFE,).
    """

    sigma: Tensor
    rows: tuple[Row, ...]
    model_sigmas: Tensor

    def hardened(self) -> Tableau:
        """The table with numbers for tensors. The newest output's weight is what consistency leaves for it."""
        start = base = _number(self.sigma)
        rows = []
        for row in self.rows:
            sigma, weights = _number(row.sigma), {index: _number(weight) for index, weight in row.weights}
            newest = max(weights)
            weights[newest] = 1 - sigma / base - sum(weight for index, weight in weights.items() if index != newest)
            guidance = tuple((index, _number(weight)) for index, weight in row.guidance_weights)
            rows.append(Row(sigma, tuple(sorted(weights.items())), row.evaluate, row.commit, guidance))
            base = sigma if row.commit else base
        found, told = Tableau(start, tuple(rows)), tuple(self.model_sigmas.tolist())
        return found if np.allclose(told, found.evaluation_sigmas, rtol=1e-9) else replace(found, model_sigmas=told)


def _number(value: Tensor | float) -> float:
    return value.detach().item() if isinstance(value, Tensor) else value


def softened(tableau: Tableau) -> SoftTableau:
    """A table's numbers as constant tensors."""
    data = tableau.in_terms_of("data")

    def pairs(weights: Sequence[tuple[int, float]]) -> Any:
        return tuple((index, _scalar(weight)) for index, weight in weights)

    rows = tuple(Row(_scalar(r.sigma), pairs(r.weights), r.evaluate, r.commit, pairs(r.guidance_weights)) for r in data.rows)  # type: ignore[arg-type]
    told = torch.tensor(data.model_sigmas or data.evaluation_sigmas, dtype=torch.float64)
    return SoftTableau(_scalar(data.sigma), rows, told)


def _scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


class SoftWalk(Walk):
    """A walk along rows of tensors; nothing is changed in place, so that autograd can go back along it."""

    def combine(self, row: Row) -> Tensor:
        y = self.base * (row.sigma / self.sigma).to(self.base)  # type: ignore[attr-defined]
        for kept, weights in ((self.outputs, row.weights), (self.differences, row.guidance_weights)):
            for index, weight in weights:
                y = y + kept[index] * weight.to(y)  # type: ignore[attr-defined]
        return y

    def copy(self) -> "SoftWalk":
        other = SoftWalk(self.base, self.sigma, self.prediction, self.guided)
        other.outputs, other.differences, other.evaluations = dict(self.outputs), dict(self.differences), self.evaluations
        return other


class Spending:
    """A model on the samples of a fit, with a count of what the fit spends.

    Attributes:
        model, guidance, noise: the model at a guidance scale, and unit noise (N, …).
        forward: guided evaluations, each counted once a sample.
        backward: how many of them were recorded to be differentiated.
    """

    def __init__(self, model: BenchModel, guidance: float, noise: Tensor, extra_args: Callable[[Tensor], dict[str, Tensor]]):
        self.model, self.guidance, self.noise, self.extra_args = model, guidance, noise, extra_args
        self.forward = self.backward = 0

    @property
    def evaluations(self) -> int:
        """In forward evaluations: one with its way back takes the time of three."""
        return self.forward + 2 * self.backward

    def on(self, samples: Tensor) -> Callable[[Tensor, Tensor], Tensor | Guided]:
        """The denoiser for the samples with these indices."""
        denoiser, arguments = self.model.fit_denoiser(self.guidance), self.extra_args(samples)

        def denoise(y: Tensor, sigma: Tensor) -> Tensor | Guided:
            self.forward += len(y)
            self.backward += len(y) * (torch.is_grad_enabled() and (y.requires_grad or sigma.requires_grad))
            return denoiser(y, sigma, **arguments)

        return denoise

    def start(self, table: SoftTableau, samples: Tensor, noise: Tensor | None = None) -> tuple[SoftWalk, Callable]:
        """A walk of these samples, evaluated once, and what evaluates it further; ``noise`` replaces theirs."""
        denoiser = self.on(samples)
        unit = self.noise[samples] if noise is None else noise
        walk = SoftWalk(unit * table.sigma.to(unit), table.sigma, "data", any(row.guidance_weights for row in table.rows))  # type: ignore[arg-type]

        def evaluate(number: int, y: Tensor, into: SoftWalk = walk, told: Tensor = table.model_sigmas) -> None:
            into.record(y, _number(told[number]), denoiser(y, told[number].to(y).expand(len(y))))

        evaluate(0, walk.base)
        return walk, evaluate

    def ends(self, table: SoftTableau, samples: Tensor, noise: Tensor | None = None) -> Tensor:
        """Where the table takes these samples, (B, …)."""
        walk, evaluate = self.start(table, samples, noise)
        for _ in drive(walk, table, evaluate, forget=False):  # type: ignore[arg-type]
            pass
        return walk.base

    def ends_of(self, tableau: Tableau, samples: Tensor, batch: int = 64) -> Tensor:
        """The same without gradients, for any table, in batches."""
        with torch.no_grad():
            return torch.cat([self.ends(softened(tableau), part) for part in samples.split(batch)])

    def batches(self, size: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Batches of sample indices without end, each sample once in every round."""
        while True:
            yield from torch.randperm(len(self.noise), generator=generator).split(size)


class _BuiltWeights(torch.autograd.Function):
    """Weights of a solver as a function of its grid, by central differences of the builder; no evaluation of a model."""

    @staticmethod
    def forward(context: Any, levels: Tensor, build: Callable[[Array], Array]) -> Tensor:
        grid, step = levels.detach().numpy(), 1e-6
        slopes = []
        for i in range(len(grid)):
            up, down = (grid * np.where(np.arange(len(grid)) == i, 1 + way * step, 1.0) for way in (0.5, -0.5))
            slopes.append((build(up) - build(down)) / (step * grid[i]))
        context.slopes = torch.from_numpy(np.stack(slopes, axis=-1))
        return torch.from_numpy(build(grid))

    @staticmethod
    def backward(context: Any, wanted: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return torch.einsum("re,rel->l", wanted, context.slopes), None


def dense_weights(tableau: Tableau) -> Array:
    """Weights of a table in data prediction, (rows, NFE)."""
    data = tableau.in_terms_of("data")
    found = np.zeros((len(data.rows), data.evaluations))
    for number, row in enumerate(data.rows):
        for index, weight in row.weights:
            found[number, index] = weight
    return found


def solver_on(method: str, order: int | None, coordinate: str, levels: Tensor, told: Tensor | None = None) -> SoftTableau:
    """A registered multistep solver on the grid of these noise levels (n,) float64 and a final 0, differentiable by them.

    ``told``: the noise level that the model is told at each evaluation, (n,); the true one by default.
    """

    def built(grid: Array) -> Tableau:
        return build_tableau(method, np.append(grid, 0.0), order, coordinate)

    weights = _BuiltWeights.apply(levels, lambda grid: dense_weights(built(grid)))
    reached = torch.cat([levels[1:], levels.new_zeros(1)])
    rows = tuple(
        Row(reached[i], tuple((j, weights[i, j]) for j in range(i + 1)), evaluate=i + 1 < len(levels))  # type: ignore[arg-type]
        for i in range(len(levels))
    )
    return SoftTableau(levels[0], rows, levels if told is None else told)
