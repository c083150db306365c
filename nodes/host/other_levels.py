"""Sampling on other noise levels than the host asked for."""

import copy
from typing import Any

import torch
from torch import Tensor

from .guided import start_at, told


def on_levels(
    model_k: Any, x: Tensor, extra_args: dict[str, Any] | None, given: Tensor, wanted: Tensor
) -> tuple[Any, Tensor, dict[str, Any]]:
    """The model, the start and the arguments that a sampler gets, for other noise levels than the given ones, as many.

    Masks and patches that look up where in the trajectory they are find the levels that are sampled on.
    """
    arguments = dict(extra_args or {})
    arguments["model_options"] = told(arguments.get("model_options") or {}, wanted.tolist())
    if hasattr(model_k, "sigmas"):
        model_k = copy.copy(model_k)
        model_k.sigmas = wanted
    return model_k, _moved(model_k, x, float(given[0]), float(wanted[0])), arguments


def _moved(model_k: Any, x: Tensor, given: float, wanted: float) -> Tensor:
    """The host's start at one noise level, as it would be at another.

    The host has mixed noise and a latent image, with weights that depend on the level. What comes without noise of its own, as
    the second part of a sampling in parts does, stays as it is: the first part has left it where this one starts.
    """
    noise, image = getattr(model_k, "noise", None), getattr(model_k, "latent_image", None)
    if given == wanted or (noise is not None and not noise.any()):
        return x
    (noisy, kept), (noisy_there, kept_there) = (_weights(model_k.inner_model, level) for level in (given, wanted))
    if not noisy:
        return x  # a model that starts from the picture itself
    if image is None:
        return x * (noisy_there / noisy)
    return (x - kept * image) * (noisy_there / noisy) + kept_there * image


def _weights(guider: Any, sigma: float) -> tuple[float, float]:
    """The weights of the noise and of the latent image in the host's start at a noise level."""
    one, nothing = torch.ones(1), torch.zeros(1)
    return float(start_at(guider, one, sigma, nothing)), float(start_at(guider, nothing, sigma, one))
