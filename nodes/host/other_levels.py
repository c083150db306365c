"""Sampling on other noise levels than the host asked for, so that what comes in and goes out is as it asked."""

import copy
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .guided import guider_of, start_at, told

# A sampler's run: model, start, noise levels, arguments of the model.
Run = Callable[[Any, Tensor, Tensor, dict[str, Any]], Tensor]
_SAMPLED, _MOST_LEFT = 256, 8


def on_levels(run: Run, model_k: Any, x: Tensor, given: Tensor, wanted: Tensor, extra_args: dict[str, Any] | None) -> Tensor:
    """What a sampler makes on other noise levels than the given ones, as many.

    The host's start is moved to the first of them. Where the last is not 0, as in the first part of a sampling in parts, the
    result is moved to the given one, whatever samples on from there; if that is this function again, it goes on exactly
    where the first part has ended. Masks and patches that look up where in the trajectory they are find the levels that are
    sampled on.
    """
    arguments = dict(extra_args or {})
    arguments["model_options"] = told(arguments.get("model_options") or {}, wanted.tolist(), wanted.device)
    model = _Watched(model_k, wanted)
    result = run(model, _moved(model, x, float(given[0]), float(wanted[0]), arguments), wanted, arguments)
    given_end, end = float(given[-1]), float(wanted[-1])
    if given_end == end or model.denoised is None:
        return result
    moved = _along(result, model.denoised, given_end / end)
    _left.appendleft(_Left(end, _samples(moved), result.to("cpu", copy=True)))
    return moved


class _Watched:
    """The host's model in a sampler's hands, which knows the noise levels and what it said last."""

    def __init__(self, model_k: Any, sigmas: Tensor):
        self._model = model_k
        if hasattr(model_k, "sigmas"):
            self._model = copy.copy(model_k)
            self._model.sigmas = sigmas
        self.denoised: Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, x: Tensor, sigma: Tensor, **arguments: Any) -> Tensor:
        denoised = self._model(x, sigma, **arguments)
        self.denoised = denoised
        return denoised


def _moved(model: _Watched, x: Tensor, given: float, wanted: float, arguments: dict[str, Any]) -> Tensor:
    """The host's start at one noise level, as it would be at another.

    The host has mixed noise and a latent image, with weights that depend on the level. Where it has added no noise, what is in
    the latent stays; it is moved as one step of Euler's would, for one evaluation of the model.
    """
    noise, image = getattr(model, "noise", None), getattr(model, "latent_image", None)
    if given == wanted:
        return x
    if noise is not None and not noise.any():
        left = next((left for left in _left if left.level == wanted and left.is_of(x)), None)
        if left is not None:
            return left.exact.to(x)
        return _along(x, model(x, x.new_full([len(x)], given), **arguments), wanted / given)
    (noisy, kept), (noisy_there, kept_there) = (_weights(guider_of(model), level) for level in (given, wanted))
    if not noisy:
        return x  # a model that starts from the picture itself
    if image is None:
        return x * (noisy_there / noisy)
    return (x - kept * image) * (noisy_there / noisy) + kept_there * image


def _weights(guider: Any, sigma: float) -> tuple[float, float]:
    """The weights of the noise and of the latent image in the host's start at a noise level."""
    one, nothing = torch.ones(1), torch.zeros(1)
    return float(start_at(guider, one, sigma, nothing)), float(start_at(guider, nothing, sigma, one))


def _along(x: Tensor, denoised: Tensor, ratio: float) -> Tensor:
    """x at a noise level ``ratio`` times as high, on the straight line to the denoised."""
    return denoised + (x - denoised) * ratio


@dataclass(frozen=True, eq=False)
class _Left:
    """Where a first part has ended.

    Attributes:
        level: its last noise level.
        samples: some numbers of what the host got, by which it is known again.
        exact: what it was before it was moved, in CPU memory.
    """

    level: float
    samples: Tensor
    exact: Tensor

    def is_of(self, x: Tensor) -> bool:
        return self.exact.shape == x.shape and bool(torch.allclose(self.samples, _samples(x), rtol=1e-4, atol=1e-5))


_left: deque[_Left] = deque(maxlen=_MOST_LEFT)


def _samples(x: Tensor) -> Tensor:
    flat = x.reshape(-1)
    return flat[:: max(1, flat.numel() // _SAMPLED)].to("cpu", torch.float32)
