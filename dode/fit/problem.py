"""What every fit is given: a model, noise samples, and which of them judge."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dode.errors import FitError
from dode.fit.held_out import check_split, split
from dode.fit.model_calls import ExtraArgs, ModelCalls, Progress
from dode.sampling import Denoiser


@dataclass(frozen=True)
class Problem:
    """A model and the samples that it is distilled on. The fields are arguments of ``distill`` and ``distill_students``.

    Attributes:
        denoiser, extra_args, device, progress, stop: the model, and who hears of its calls.
        x: the samples, (N, …), N from 2.
        held_out, micro_batch, seed, groups: how they are shared out.

    Raises:
        FitError: unusable samples, or a part that cannot be held out.

    Example:
        >>> from dode.demo.mixture import ring
        >>> held, batches = Problem(ring(), torch.randn(8, 4), micro_batch=4).split()
        >>> len(held), len(batches)
        (2, 2)
    """

    denoiser: Denoiser
    x: Tensor
    held_out: float = 0.25
    micro_batch: int = 16
    extra_args: ExtraArgs | None = None
    device: torch.device | str | None = None
    seed: int = 0
    groups: Sequence[int] | None = None
    progress: Progress | None = None
    stop: Callable[[], bool] | None = None

    def __post_init__(self):
        x = self.x
        if not isinstance(x, Tensor) or x.ndim < 2 or len(x) < 2 or not x.is_floating_point():
            raise FitError("A fit needs a floating-point batch of at least two samples, (N, …): one is fitted and one judges.")
        check_split(self.held_out, self.micro_batch)

    def model(self) -> ModelCalls:
        """The model, with nothing counted yet."""
        device = torch.device(self.device) if self.device is not None else self.x.device
        return ModelCalls(self.denoiser, self.extra_args, device, self.progress, self.stop)

    def split(self) -> tuple[list[int], list[Tensor]]:
        """Indices of the held-out samples, and of all samples in micro-batches."""
        return split(len(self.x), self.held_out, self.micro_batch, self.seed, self.groups)
