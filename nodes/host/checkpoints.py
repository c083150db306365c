"""What can be said of a checkpoint by its name in the host's lists, without loading it: from its header alone."""

import json
from pathlib import Path
from typing import Any

import torch

from dode.demo.model import WEIGHTS, EmbeddedModel
from dode.files.fingerprint import fingerprint
from dode.files.parameter_file import ModelInfo

from . import feature, folder_paths, log
from .model_info import prediction_of

_FOLDERS = ("checkpoints", "diffusion_models")
_MAX_HEADER = 32 << 20
_known: dict[tuple[str, int, int], ModelInfo] = {}


def info_of(name: str) -> ModelInfo:
    """A checkpoint by its name in the host's lists, or the demo model. What cannot be found out stays unknown."""
    if name == EmbeddedModel.name:
        kind = EmbeddedModel
        return ModelInfo(kind.name, kind.family, kind.prediction, kind.channels, fingerprint(WEIGHTS))
    paths = (folder_paths.get_full_path(folder, name) for folder in _FOLDERS)
    found = next((Path(path) for path in paths if path is not None), None)
    if found is None:
        return ModelInfo(name=Path(name).name)
    status = found.stat()
    key = (str(found), status.st_size, status.st_mtime_ns)
    if key not in _known:
        _known[key] = ModelInfo(name=found.name, fingerprint=fingerprint(found), **_architecture(found))
    return _known[key]


def _architecture(path: Path) -> dict[str, Any]:
    """Family, prediction kind and latent channels, as the host itself finds them out when it loads the file.

    The host looks at names and shapes of weights; here they have no numbers. What it cannot tell from that is left unknown:
    nothing depends on it but a list.
    """
    detection = feature("comfy.model_detection")
    try:
        header = json.loads(feature("comfy.utils:safetensors_header")(str(path), max_size=_MAX_HEADER))
        header.pop("__metadata__", None)
        weights = {name: torch.empty(described["shape"], device="meta") for name, described in header.items()}
        prefix = detection.unet_prefix_from_state_dict(weights)
        if not any(name.startswith(prefix) for name in weights):
            prefix = ""
        config = detection.model_config_from_unet(weights, prefix)
        config.unet_config["disable_unet_model_creation"] = True  # all but the network, which would take seconds
        model = config.get_model(weights, prefix)
        channels = int(model.latent_format.latent_channels)
        return {"family": type(config).__name__, "prediction": prediction_of(model.model_sampling), "channels": channels}
    except Exception as error:  # the host's code, on files of any kind
        log.debug("D-ODE: %s is of no kind that is known (%s).", path, error)
        return {}
