"""Prompts: a picture's class and its mean colours above and below, as a short text names a thing and its colours.

There is no end of them, as there is none of texts, so samples to test on can have prompts that no fit has seen.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from dode.demo.pictures import CLASSES, draw

LENGTH = len(CLASSES) + 6
COUNT = 1024  # for the samples of a fit, and as many others for those of a test
_SEED = 21


def describe(pictures: Tensor, labels: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) of these classes (B,) as prompts (B, LENGTH): a one-hot class, and the mean colours of the upper
    and the lower half, in [-1, 1]."""
    halves = F.adaptive_avg_pool2d(pictures, (2, 1)).flatten(1)
    return torch.cat([F.one_hot(labels, len(CLASSES)).to(halves), halves], dim=1)


def prompts() -> Tensor:
    """The prompts (2 · COUNT, LENGTH) of fresh drawn pictures; prompt i is of class i modulo the number of classes."""
    generator = torch.Generator().manual_seed(_SEED)
    labels = torch.arange(2 * COUNT) % len(CLASSES)
    return torch.cat([describe(F.avg_pool2d(draw(part, generator), 2), part) for part in labels.split(512)])
