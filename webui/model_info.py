"""What the host says of the loaded checkpoint, in the words of the parameter file: the same ones as in ComfyUI."""

import ast
import hashlib
from pathlib import Path
from typing import Any

from torch import Tensor

from dode.files.fingerprint import fingerprint
from dode.files.parameter_file import NO_PATCHES, ModelInfo
from dode.flow_start import PART, moved_off_one

# Forge names the kind of prediction; reForge has ComfyUI's classes, and AUTOMATIC1111 an attribute.
_WORDS = {"epsilon": "eps", "eps": "eps", "v_prediction": "v", "v": "v", "edm": "edm", "const": "flow"}
_CLASSES = {"EDM": "edm", "V_PREDICTION": "v", "X0": "x0", "EPS": "eps", "CONST": "flow", "COSMOS_RFLOW": "rflow"}
# ComfyUI's names of the architectures, which files carry.
_FAMILIES = (("is_sdxl", "SDXL"), ("is_sd3", "SD3"), ("is_sd2", "SD20"), ("is_sd1", "SD15"))


def model_info(checkpoint: Any) -> ModelInfo:
    """Describe a loaded checkpoint. What this host does not say stays unknown."""
    path = _file(checkpoint)
    return ModelInfo(
        name=path.name if path else "",
        family=_family(checkpoint),
        prediction=prediction_of(checkpoint),
        channels=_channels(checkpoint),
        fingerprint=fingerprint(path) if path else "",
        patches=_patches(checkpoint),
    )


def prediction_of(checkpoint: Any) -> str:
    """ "eps", "v", "edm", "flow", "x0", "rflow", or "" for a kind unknown to this extension."""
    network = _network(checkpoint)
    predictor = getattr(network, "predictor", None)
    if predictor is not None:
        return _WORDS.get(str(getattr(predictor, "prediction_type", "")), "")
    sampling = getattr(network, "model_sampling", None)
    if sampling is not None:  # most derived first
        return next((_CLASSES[kind.__name__] for kind in type(sampling).__mro__ if kind.__name__ in _CLASSES), "")
    if getattr(checkpoint, "is_sd3", False):
        return "flow"
    return _WORDS.get(str(getattr(checkpoint, "parameterization", "")), "")


def sigma_range(checkpoint: Any, linker: Any) -> tuple[float, float]:
    """The lowest and highest noise level of a model, from what a sampler calls its inner model."""
    low, high = float(linker.sigmas[0]), float(linker.sigmas[-1])
    return low, _flow_start(checkpoint) if prediction_of(checkpoint) == "flow" and high == 1 else high


def stock_start(checkpoint: Any, method: str, order: int | None, sigmas: Tensor) -> Tensor:
    """The noise levels with the first one off σ = 1 of a flow model, for solvers that work in the half log-SNR."""
    if prediction_of(checkpoint) != "flow" or float(sigmas[0]) != 1:
        return sigmas
    return moved_off_one(method, order, sigmas, _flow_start(checkpoint))


def _flow_start(checkpoint: Any) -> float:
    network = _network(checkpoint)
    schedule = getattr(network, "predictor", None) or getattr(network, "model_sampling", None)
    asked = getattr(schedule, "percent_to_sigma", None)
    return 1 - PART if asked is None else float(asked(PART))


def _network(checkpoint: Any) -> Any:
    """Forge's and reForge's own model, which AUTOMATIC1111 does not have."""
    return getattr(getattr(getattr(checkpoint, "forge_objects", None), "unet", None), "model", None)


def _family(checkpoint: Any) -> str:
    for holder in (checkpoint, _network(checkpoint)):
        config = getattr(holder, "model_config", None)
        if config is not None:
            return type(config).__name__
    return next((name for attribute, name in _FAMILIES if getattr(checkpoint, attribute, False)), "")


def _channels(checkpoint: Any) -> int | None:
    network = _network(checkpoint)
    for holder, name in (
        (getattr(getattr(checkpoint, "forge_objects", None), "vae", None), "latent_channels"),
        (getattr(network, "latent_format", None), "latent_channels"),
        (checkpoint, "latent_channels"),
        (getattr(checkpoint, "model", None), "latent_channels"),
    ):
        found = getattr(holder, name, None)
        if isinstance(found, int):
            return found
    return None


def _patches(checkpoint: Any) -> str:
    """A short text for the LoRAs in use, from Forge's and reForge's own note of their files and strengths."""
    try:
        used = ast.literal_eval(checkpoint.current_lora_hash)
        named = sorted((Path(file).name, *map(str, strengths)) for file, *strengths in used)
    except (AttributeError, TypeError, ValueError, SyntaxError):
        return ""
    return f"loras-{hashlib.sha256(repr(named).encode()).hexdigest()[:32]}" if named else NO_PATCHES


def _file(checkpoint: Any) -> Path | None:
    name = getattr(getattr(checkpoint, "sd_checkpoint_info", None), "filename", None)
    return Path(name) if isinstance(name, str) and name else None
