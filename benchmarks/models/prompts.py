"""Prompts: a picture's class and what it shows in a few numbers, as a short text names a thing and its colours.

There is no end of them, as there is none of texts, so samples to test on can have prompts that no fit has seen.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from dode.demo.pictures import CLASSES, draw

LENGTH = len(CLASSES) + 6
COUNT = 1024  # for the samples of a fit, and as many others for those of a test
_SEED = 21

Draw = Callable[[Tensor, torch.Generator], Tensor]  # classes (B,) of eight, and a generator -> pictures (B, 3, 16, 16)
Describe = Callable[[Tensor, Tensor], Tensor]  # pictures and their classes -> prompts (B, length)


def drawings(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Fresh pictures (B, 3, 16, 16) of these classes (B,), drawn as for the embedded model and averaged over squares of 2x2."""
    return F.avg_pool2d(draw(labels, generator), 2)


def describe(pictures: Tensor, labels: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) of these classes (B,) as prompts (B, LENGTH): a one-hot class, and the mean colours of the upper
    and the lower half, in [-1, 1]."""
    halves = F.adaptive_avg_pool2d(pictures, (2, 1)).flatten(1)
    return torch.cat([F.one_hot(labels, len(CLASSES)).to(halves), halves], dim=1)


def prompts(draw: Draw = drawings, describe: Describe = describe) -> Tensor:
    """The prompts (2 · COUNT, length) of fresh pictures; prompt i is of class i modulo the number of classes."""
    generator = torch.Generator().manual_seed(_SEED)
    labels = torch.arange(2 * COUNT) % len(CLASSES)
    return torch.cat([describe(draw(part, generator), part) for part in labels.split(512)])
