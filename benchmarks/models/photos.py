"""Patches of photographs: the pictures with the texture and the edges that drawings lack.

The photographs come inside two packages, scikit-image and scikit-learn (extra "benchmark"), and nothing is downloaded. Six are
in the public domain or CC0; "china" (danielbuechele) and "flower" (vultilion) are CC BY 2.0.
"""

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SIZE = 16
FACTORS = (2, 3, 4)  # by which a photograph is made smaller before a patch is cut
FLATTEST = 0.7  # contrast, of 1; brightness then moves as far as [-1, 1] allows


@cache
def photographs() -> tuple[Tensor, ...]:
    """Eight photographs, each (3, H, W), in [-1, 1]."""
    from skimage import data  # only training needs these two
    from sklearn.datasets import load_sample_image

    found = [data.astronaut(), data.chelsea(), data.coffee(), data.hubble_deep_field(), data.rocket()]
    found += [np.repeat(data.grass()[..., None], 3, 2), load_sample_image("china.jpg"), load_sample_image("flower.jpg")]
    return tuple(torch.tensor(photo).permute(2, 0, 1) / 127.5 - 1 for photo in found)


def patches(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Patches (B, 3, 16, 16) of the photographs with these numbers (B,): anywhere, at any of the scales, half of them flipped.

    Contrast and brightness differ, so that no two patches are equal, however often a place is hit.
    """
    pictures = torch.empty(len(labels), 3, SIZE, SIZE)
    factors = torch.randint(len(FACTORS), labels.shape, generator=generator)
    places = torch.rand(2, len(labels), generator=generator)
    flipped = torch.rand(len(labels), generator=generator) < 0.5
    for label, photo in enumerate(photographs()):
        for number, factor in enumerate(FACTORS):
            mine = ((labels == label) & (factors == number)).nonzero()[:, 0]
            windows = F.avg_pool2d(photo, factor).unfold(1, SIZE, 1).unfold(2, SIZE, 1)
            y, x = (places[:, mine] * torch.tensor(windows.shape[1:3])[:, None]).long()
            pictures[mine] = windows[:, y, x].transpose(0, 1)
    pictures[flipped] = pictures[flipped].flip(-1)
    contrast, brightness = torch.rand(2, len(labels), 1, 1, 1, generator=generator)
    contrast = FLATTEST + (1 - FLATTEST) * contrast
    return contrast * pictures + (1 - contrast) * (2 * brightness - 1)
