"""The model as a fit sees it: every evaluation is counted, checked and reported."""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from dode.errors import ModelError, NotFiniteError
from dode.fit import ranks
from dode.sampling import Denoiser, Guided

T = TypeVar("T")
ExtraArgs = Mapping[str, Any] | Callable[[Tensor], Mapping[str, Any]]


class Progress(Protocol):
    """What hears how far a fit is. It may also have ``measured(number, start, best)``, see ``ModelCalls``."""

    def __call__(self, stage: str, done: int, total: int, /) -> None:
        """Of a stage's evaluations of the model, so many are done, of so many in all as far as is known."""
        ...


class Stopped(Exception):
    """Somebody asked a fit to stop and to keep what it has. Not an error: the fit catches it."""


class ModelCalls:
    """A denoiser on its device, for batches that come from and go back to where the fit keeps them (CPU memory).

    A ``progress`` that has a method ``measured(number, start, best)`` also hears errors as they become known.

    Attributes:
        counts: evaluations by stage, each counted once per sample.
        stop: asked before every model call whether to stop; None goes on to the end.
        alone: every process makes all of the calls, since they cost nothing.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        extra_args: ExtraArgs | None,
        device: torch.device,
        progress: Progress | None,
        stop: Callable[[], bool] | None = None,
        alone: bool = False,
    ):
        self.denoiser, self.extra_args, self.device, self.progress = denoiser, extra_args, device, progress
        self.stop, self.alone = stop, alone
        self.stage, self.totals = "", {}
        self.counts: dict[str, int] = {}
        self._first: list[tuple[bool, float]] = []  # whether the first call gave both outputs, and at which sigma

    def enter(self, stage: str, total: int) -> None:
        """Begin, or go on with, a stage that will have ``total`` evaluations in all."""
        self.stage, self.counts[stage] = stage, self.counts.get(stage, 0)
        self.totals[stage] = total
        if self.progress is not None:
            self.progress(stage, self.counts[stage], max(total, self.counts[stage]))

    def watched(self, watch: Callable[[Denoiser, Tensor], Denoiser]) -> "ModelCalls":
        """The same model, counted together, whose denoisers go through ``watch(denoiser, samples)``."""
        other = copy(self)
        other.on = lambda samples: watch(self.on(samples), samples)  # type: ignore[method-assign]
        return other

    def expect(self, more: int) -> None:
        """The stage will have so many more evaluations than it has had so far, at least."""
        self.totals[self.stage] = max(self.totals[self.stage], self.counts[self.stage] + more)

    def part(self, batches: Sequence[Tensor]) -> list[Tensor]:
        """Of samples in micro-batches (B,) those that this process takes (``dode.fit.ranks``)."""
        return list(batches) if self.alone else ranks.part(batches)

    def together(self, work: Callable[[], list[T]]) -> list[T]:
        """Do this process's part of a work on the model; what all did, one after the other. All that they called is counted."""
        if self.alone:
            return work()
        before, stage = self.counts.get(self.stage, 0), self.stage

        def hear(others: int) -> None:
            self.counts[stage] = self.counts.get(stage, 0) + others

        return ranks.together(work, lambda: self.counts.get(stage, 0) - before, hear)

    def share(self, batches: Sequence[Tensor], work: Callable[[Tensor], T]) -> list[T]:
        """Share out samples in micro-batches (B,); what the work made of each micro-batch, in the order of the samples."""
        mine = self.part(batches)
        return self.together(lambda: [work(batch) for batch in mine])

    def measured(self, number: int, start: float, best: float) -> None:
        """Report RMS errors on the held-out samples at the end of the trajectory: of the undistilled start, and of the best
        sampler so far, after attempt ``number``. 0 is the start itself, with which each sampler to be fitted begins."""
        hear = getattr(self.progress, "measured", None)
        if hear is not None:
            hear(number, start, best)

    def on(self, samples: Tensor) -> Denoiser:
        """A plain denoiser for the samples with these indices.

        Raises (when called):
            NotFiniteError: the model returned NaN or infinity. ModelError: it returned no tensor, or one output where it
                returned both before. Stopped: ``stop`` said so.
        """
        extra = self.extra_args(samples) if callable(self.extra_args) else (self.extra_args or {})

        def denoise(y: Tensor, sigma: Tensor) -> Tensor | Guided:
            if self.stop is not None and self.stop():
                raise Stopped
            out = self.denoiser(y.to(self.device), sigma.to(self.device), **extra)
            parts = out if isinstance(out, Guided) else (out,)
            if not all(isinstance(part, Tensor) for part in parts):
                raise ModelError(f"The denoiser must return a tensor, got {type(out).__name__}.")
            parts = [part.to(y.device, y.dtype) for part in self._as_before(parts, sigma)]
            if not all(_finite(part) for part in parts):
                raise NotFiniteError(
                    f"The model returned NaN or infinity at sigma {float(sigma[0]):.4g}. Nothing was fitted; check the model, "
                    "its precision and the guidance scale, or start from a smaller sigma."
                )
            self.counts[self.stage] += len(y)
            if self.progress is not None:
                self.progress(self.stage, self.counts[self.stage], max(self.totals[self.stage], self.counts[self.stage]))
            return Guided(*parts) if len(parts) == 2 else parts[0]

        return denoise

    def _as_before(self, parts: Sequence[Tensor], sigma: Tensor) -> Sequence[Tensor]:
        """The outputs that the first call gave: whether the guidance channel is fitted depends on that."""
        if not self._first:
            self._first.append((len(parts) == 2, float(sigma[0])))
        both, where = self._first[0]
        if both and len(parts) == 1:
            raise ModelError(
                f"The denoiser returned both outputs of guidance at sigma {where:.4g} and one at sigma {float(sigma[0]):.4g}. "
                "Return Guided everywhere, with zeros for the difference where guidance is off, or nowhere."
            )
        return parts if both else parts[:1]


def _finite(part: Tensor) -> bool:
    """Whether no number is NaN or infinite: each of these would show in the sum, which is taken in one pass."""
    return bool(part.sum(dtype=torch.promote_types(part.dtype, torch.float32)).isfinite())
