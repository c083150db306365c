"""Samples at several guidance scales at once, for a fit that is meant for new prompts.

How hard guidance pulls differs from prompt to prompt: what one does at scale 10, another does at 6. A fit on few prompts has
seen few of these. Spread over larger scales, the same prompts stand for more. Cf. domain randomisation (Tobin et al. 2017).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dode.sampling import Guided

LEVELS = 3


@dataclass(frozen=True)
class Spread:
    """Outputs of a guided model as they would be at larger guidance scales, which differ from sample to sample.

    Attributes:
        guidance: the scale w that the model's outputs were mixed with, D_uncond + w (D_cond - D_uncond).
        factors: for each sample the factor of w that it is fitted at, (N,).
    """

    guidance: float
    factors: Tensor

    def __call__(self, samples: Tensor, output: Guided) -> Guided:
        """The outputs (B, …) of samples with these indices, as if D_cond were so much farther from D_uncond."""
        denoised, direction = output
        factors = self.factors[samples].to(direction).view(-1, *[1] * (direction.ndim - 1))
        return Guided(denoised + (factors - 1) * self.guidance * direction, factors * direction)


def spread(most: float, guidance: float, held: Sequence[int], groups: Sequence[int]) -> Spread:
    """The samples of each group in turn at factors 1 to ``most``, evenly in the logarithm; those that judge at 1."""
    judges, seen = set(held), Counter[int]()
    order = {group: number for number, group in enumerate(sorted(set(groups)))}
    factors = torch.ones(len(groups), dtype=torch.float64)
    for i, group in enumerate(groups):
        if i not in judges:
            factors[i] = most ** ((seen[group] + order[group]) % LEVELS / (LEVELS - 1))
            seen[group] += 1
    return Spread(guidance, factors)
