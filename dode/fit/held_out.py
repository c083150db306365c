"""Which samples are fitted and which judge, and how far they are from where they should be."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dode.errors import FitError
from dode.tableau import Array

FEWEST_GROUPS = 4  # from which on whole groups are held out


def check_split(held_out: float, micro_batch: int) -> None:
    """Raises FitError for a part that is held out, or a size of micro-batches, that cannot be."""
    if not 0 < held_out < 1:
        raise FitError(f"held_out must lie between 0 and 1, got {held_out}.")
    if micro_batch < 1:
        raise FitError(f"micro_batch must be at least 1, got {micro_batch}.")


def split(
    count: int, held_out: float, micro_batch: int, seed: int, groups: Sequence[int] | None = None
) -> tuple[list[int], list[Tensor]]:
    """Indices of the held-out samples, and of all samples in micro-batches. ``groups`` as in ``distill``: from four on
    whole ones are held out.

    Raises:
        FitError: not one group for each sample.
    """
    if groups is not None and len(groups) != count:
        raise FitError(f"groups must hold one number for each of the {count} samples, got {len(groups)}.")
    kinds = sorted(set(groups or ()))
    if groups is None or len(kinds) < FEWEST_GROUPS:
        kinds = groups = range(count)
    order = torch.randperm(len(kinds), generator=torch.Generator().manual_seed(seed)).tolist()
    judges = {kinds[i] for i in order[: _held_count(len(kinds), held_out)]}
    return [i for i in range(count) if groups[i] in judges], list(torch.arange(count).split(micro_batch))


def prompt_of_each(samples: int, prompts: int) -> list[int]:
    """For each sample the number of its prompt, evenly: in blocks of one prompt, so that a micro-batch seldom holds two.

    Example:
        >>> prompt_of_each(5, 2)
        [0, 0, 0, 1, 1]
    """
    return [i * prompts // samples for i in range(samples)]


def _held_count(samples: int, held_out: float) -> int:
    return min(max(round(samples * held_out), 1), samples - 1)


def squares(difference: Tensor) -> Array:
    """Summed squares of each sample, float64 (B,)."""
    return difference.flatten(1).double().square().sum(1).cpu().numpy()


def rms(a: Tensor, b: Tensor) -> float:
    """Root of the mean squared difference over all elements."""
    return float((a.double() - b.double()).square().mean().sqrt())
