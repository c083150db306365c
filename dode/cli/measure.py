"""Measuring solvers on a model: how far from the reference they land on noise that nothing was fitted on."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dode.cli.models import Model
from dode.sampling import Guided, sample
from dode.tableau import Tableau

Tick = Callable[[int], None]


@dataclass(frozen=True)
class Bench:
    """A model, a noise seed and a number of samples: the same noise for every solver that runs on it.

    Attributes:
        only: the numbers of the samples that are run; all of them by default.
    """

    model: Model
    count: int
    seed: int
    micro_batch: int = 32
    only: tuple[int, ...] | None = None

    @property
    def samples(self) -> int:
        """How many samples are run."""
        return self.count if self.only is None else len(self.only)

    def run(self, tableau: Tableau, tick: Tick | None = None) -> Tensor:
        """Sample the batch with a solver: (samples, …) on the CPU. ``tick`` gets the size of each batch evaluated."""
        starts = self.model.noise(self.count, self.seed, tableau.sigma)
        results: list[Tensor] = []
        for batch in torch.tensor(range(self.count) if self.only is None else self.only).split(self.micro_batch):
            extra = self.model.extra_args(batch)

            def denoise(x: Tensor, sigma: Tensor, extra: dict = extra) -> Tensor | Guided:
                if tick is not None:
                    tick(len(x))
                return self.model.denoiser(x, sigma, **extra)

            with torch.no_grad():
                results.append(sample(denoise, starts[batch].to(self.model.device), tableau).cpu())
        return torch.cat(results)
