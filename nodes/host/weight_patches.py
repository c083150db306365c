"""What is put on a model's weights, as a short text: which LoRAs and merges, and how strong."""

import hashlib
import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dode.files.parameter_file import NO_PATCHES

_NUMBERS = 8  # of each tensor, evenly spread: enough to tell one LoRA or model from another
_MOST_KNOWN = 64
_known: dict[Any, str] = {}


def patches_of(model: Any) -> str:
    """A text that is the same for the same weight patches with the same strengths, in this session and the next; ``NO_PATCHES``
    where there are none, "" where they cannot be told.

    Hashed are the names of the patched weights, the strengths, and of each tensor its shape and a few of its numbers. No weight
    is moved or cast as a whole. Patches that only add may come in any order.

    Args:
        model: the host's model patcher. LoRAs that the host adds while the model runs (its bypass loaders) count like others.
            Those of a prompt (hooks) belong to the prompt and do not count.
    """
    patches = getattr(model, "patches", None)
    if not isinstance(patches, Mapping):
        return ""
    beside = _injected(model)
    if beside is None:
        return ""
    identity = getattr(model, "patches_uuid", None)
    if identity is None or beside:
        return _digest(patches, beside)
    if identity not in _known:
        if len(_known) >= _MOST_KNOWN:
            _known.pop(next(iter(_known)))
        _known[identity] = _digest(patches, beside)
    return _known[identity]


def _digest(patches: Mapping[Any, list[Any]], beside: Mapping[str, list[Any]]) -> str:
    digest, some = hashlib.sha256(), False
    for key in sorted({*map(str, patches), *beside}):
        found = [*patches.get(key, ()), *beside.get(key, ())]
        found = [patch for patch in found if tuple(patch[0:3:2]) != (0, 1)]  # of strength 0, on weights that stay
        described = [_described(patch) for patch in found]
        if all(patch[2] == 1 for patch in found):
            described.sort()
        for text in described:
            digest.update(f"{key}\0".encode() + text)
            some = True
    return f"patches-{digest.hexdigest()[:32]}" if some else NO_PATCHES


def _injected(model: Any) -> dict[str, list[Any]] | None:
    """The patches that the host's bypass loaders add, as ``patches`` has others; None where what is injected is unknown."""
    found: dict[str, list[Any]] = {}
    for injections in getattr(model, "injections", {}).values():
        for injection in injections:
            function = getattr(injection, "inject", None)
            manager = inspect.getclosurevars(function).nonlocals.get("self") if inspect.isfunction(function) else None
            adapters = getattr(manager, "adapters", None)
            if not isinstance(adapters, dict):
                return None
            for key, (adapter, strength) in adapters.items():
                found.setdefault(f"{key}.weight", []).append((strength, adapter, 1.0, None, None))
    return found


def _described(value: Any) -> bytes:
    """What a patch says, whatever the host's or another pack's loader made it of."""
    if isinstance(value, Tensor):
        return repr(tuple(value.shape)).encode() + _some_numbers(value)
    if isinstance(value, (list, tuple)):
        return b"(" + b",".join(map(_described, value)) + b")"
    if isinstance(value, dict):
        return b"{" + b",".join(str(key).encode() + b":" + _described(value[key]) for key in sorted(value, key=str)) + b"}"
    if isinstance(value, (int, float)):
        return repr(float(value)).encode()
    if value is None or isinstance(value, str):
        return repr(value).encode()
    weights = getattr(value, "weights", None)  # the host's own class for each kind of LoRA
    return type(value).__name__.encode() + (b"" if weights is None else _described(weights))


def _some_numbers(tensor: Tensor) -> bytes:
    if not tensor.numel() or tensor.is_meta:
        return b""
    flat = np.linspace(0, tensor.numel() - 1, _NUMBERS).astype(np.int64)
    places = tuple(torch.from_numpy(axis) for axis in np.unravel_index(flat, tensor.shape)) if tensor.ndim else ()
    try:
        if type(tensor) in (Tensor, torch.nn.Parameter) and tensor.element_size() == 1:
            tensor = tensor.detach().view(torch.uint8)  # eight-bit floats cannot be indexed everywhere
        return tensor.detach()[places].to("cpu", torch.float32).numpy().tobytes()
    except (RuntimeError, NotImplementedError, TypeError):  # packed kinds of tensors that cannot be indexed
        return b"?"
