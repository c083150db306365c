"""Latents of one tensor, and those of several, such as picture and sound, which the host packs into one while it samples."""

from typing import Any

import torch
from torch import Tensor

from . import feature
from .model_info import with_channels_of


def is_nested(latent: Any) -> bool:
    """Whether it is the host's bundle of several tensors."""
    return bool(getattr(latent, "is_nested", False))


def flat(latent: Any) -> Tensor:
    """One tensor (B, …), packed as the host packs it for sampling."""
    return feature("comfy.utils:pack_latents")(latent.unbind())[0] if is_nested(latent) else latent


def picture_of(latent: Any) -> Tensor:
    """The part that can be decoded and previewed: the first."""
    return latent.unbind()[0] if is_nested(latent) else latent


def picture_in(packed: Tensor, like: Any) -> Tensor:
    """The same of a tensor that is packed as ``flat(like)`` is."""
    if not is_nested(like):
        return packed
    shape = picture_of(like).shape[1:]
    return packed[:, :, : shape.numel()].reshape(len(packed), *shape)


def noise_and_empty(model: Any, latent: dict[str, Any], count: int, seed: int) -> tuple[Any, Any]:
    """Unit noise for ``count`` samples of a latent's shape, and the empty latents to go with it, both as the host has them.

    An empty latent of one tensor may be one of several for this model: the host knows that.
    """
    samples = latent["samples"]
    one = samples if is_nested(samples) else with_channels_of(model, latent, torch.zeros_like(samples[:1]))
    if is_nested(one):
        parts = [torch.zeros(count, *part.shape[1:]) for part in one.unbind()]
        empty = feature("comfy.nested_tensor:NestedTensor")(parts)
    else:
        empty = torch.zeros(count, *one.shape[1:])
    return feature("comfy.sample").prepare_noise(empty, seed), empty
