"""What a fit is made from beside its settings, as a short text: whether another would be the same one."""

import hashlib
from typing import Any

import torch
from torch import Tensor

_OTHER_PATCHES = ("wrappers", "callbacks", "attachments", "additional_models", "injections", "hook_patches")


class _Unknown(Exception):
    """Something of which nobody can say whether it is the same as before."""


def identity_of(model: Any, conditionings: Any) -> str:
    """A text that is the same for the same conditionings on a model with the same noise levels and nothing put on it but weight
    patches, which the model's own description has; "" where that cannot be told.

    Patches of other kinds, ControlNets and hooks are code and networks in memory. With them a fit is never taken for another.
    """
    objects = dict(getattr(model, "object_patches", {}))
    sampling = objects.pop("model_sampling", None) or model.get_model_object("model_sampling")
    others = [getattr(model, name, None) for name in _OTHER_PATCHES]
    digest = hashlib.sha256()
    try:
        if objects or any(map(_filled, others)):
            return ""
        numbers = {name: value for name, value in vars(sampling).items() if isinstance(value, (int, float))}
        levels = dict(sampling.named_buffers())
        kinds = [f"{kind.__module__}.{kind.__qualname__}" for kind in type(sampling).__mro__]
        _describe([model.model_options, kinds, numbers, levels, conditionings], digest)
    except _Unknown:
        return ""
    return digest.hexdigest()[:32]


def _filled(value: Any) -> bool:
    """Whether there is anything in dicts and lists."""
    if isinstance(value, dict):
        return any(map(_filled, value.values()))
    return any(map(_filled, value)) if isinstance(value, (list, tuple)) else value is not None


def _describe(value: Any, digest: Any) -> None:
    """Feed a value to a hash. Raises _Unknown for what is no plain data."""
    if isinstance(value, Tensor):
        if type(value) not in (Tensor, torch.nn.Parameter):
            raise _Unknown
        data = value.detach().cpu().contiguous()
        digest.update(f"tensor {value.dtype} {tuple(value.shape)}\0".encode())
        if data.numel():
            digest.update(data.reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, dict):
        digest.update(f"dict {len(value)}\0".encode())
        for key in sorted(value, key=str):
            if not isinstance(key, (str, int)):
                raise _Unknown
            digest.update(f"{key}\0".encode())
            _describe(value[key], digest)
    elif isinstance(value, (list, tuple)):
        digest.update(f"list {len(value)}\0".encode())
        for part in value:
            _describe(part, digest)
    elif value is None or isinstance(value, (str, int, float)):
        digest.update(f"{type(value).__name__} {value!r}\0".encode())
    else:
        raise _Unknown
