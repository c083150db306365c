"""Where a sampler ends for many samples, and how far that is from where the teacher ends."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from dode.errors import NotFiniteError
from dode.fit.held_out import squares
from dode.fit.model_calls import ModelCalls
from dode.sampling import Guided, sample
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

    def run(self, model: ModelCalls, tableau: Tableau) -> Tensor:
        """Where a sampler ends, (N, …)."""

        def one(batch: Tensor) -> Tensor:
            return sample(model.on(batch), self.start(self.noise[batch], tableau.sigma), tableau)

        return torch.cat(model.share(self.batches, one))

    def distances(self, ends: Tensor) -> Array:
        """Mean squared distance to the teacher of each sample, (N,)."""
        return squares(ends - self.ends[self.order]) / self.noise[0].numel()

    def errors(self, model: ModelCalls, tableau: Tableau) -> Array:
        """The same for a sampler; infinite if the model returned NaN or infinity."""
        try:
            return self.distances(self.run(model, tableau))
        except NotFiniteError:
            return np.full(len(self.order), np.inf)

    def guided(self, model: ModelCalls) -> bool:
        """Whether the model gives the guidance difference beside its output: one evaluation of one sample."""
        highest = self.sigma_range[1]

        def one(sample: Tensor) -> bool:
            x = self.start(self.noise[sample], highest)
            return isinstance(model.on(sample)(x, x.new_full((1,), highest)), Guided)

        return model.share([self.batches[0][:1]], one)[0]


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
