"""What the host says of a loaded model, in the words of the parameter file."""

from pathlib import Path
from typing import Any

from torch import Tensor

from dode.files.fingerprint import fingerprint
from dode.files.parameter_file import ModelInfo
from dode.flow_start import PART, moved_off_one

from . import feature
from .weight_patches import patches_of

# What KSampler's `dode` runs where no parameters fit.
FALLBACK_SOLVER, FALLBACK_SCHEDULER, FALLBACK_SCHEDULER_FLOW = "dpmpp_2m", "karras", "simple"

# Most derived first: these classes of comfy.model_sampling inherit from one another.
_PREDICTIONS = (
    ("EDM", "edm"),
    ("V_PREDICTION", "v"),
    ("V_PREDICTION_DDPM", "v"),
    ("IMG_TO_IMG_FLOW", "flow"),
    ("IMG_TO_IMG", "x0"),
    ("X0", "x0"),
    ("EPS", "eps"),
    ("CONST", "flow"),
    ("COSMOS_RFLOW", "rflow"),
)


def prediction_of(model_sampling: Any) -> str:
    """ "eps", "v", "edm", "flow", "x0", "rflow" (a flow model in variance-exploding σ), or "" for a kind unknown to this pack.

    Taken from ``model_sampling``, which nodes like ModelSamplingSD3 replace; the model's own type would be stale.
    """
    classes = feature("comfy.model_sampling")
    for name, word in _PREDICTIONS:
        kind = getattr(classes, name, None)
        if kind is not None and isinstance(model_sampling, kind):
            return word
    return ""


def sigma_range(sampling: Any) -> tuple[float, float]:
    """The lowest and highest noise level of a model. At σ = 1 of a flow schedule it is where the host's own samplers start."""
    low, high = float(sampling.sigma_min), float(sampling.sigma_max)
    if prediction_of(sampling) == "flow" and high == 1:
        high = float(sampling.percent_to_sigma(PART))
    return low, high


def stock_start(model: Any, method: str, order: int | None, sigmas: Tensor) -> Tensor:
    """The noise levels with the first one where the host's own sampler of that name starts on this model.

    Samplers that work in the half log-SNR, which is infinite at σ = 1 of a flow schedule, are moved off it by the host by as
    much as the model's shift asks for (offset_first_sigma_for_snr). A table alone knows only a model without a shift.
    """
    sampling = model.get_model_object("model_sampling")
    if prediction_of(sampling) != "flow" or float(sigmas[0]) != 1:
        return sigmas
    return moved_off_one(method, order, sigmas, float(sampling.percent_to_sigma(PART)))


def with_channels_of(model: Any, latent: dict[str, Any], samples: Tensor) -> Tensor:
    """An empty latent's samples in the shape that the model takes, as the host's own sampling nodes make them."""
    scale = [latent[k] for k in ("downscale_ratio_spacial", "downscale_ratio_temporal") if latent.get(k) is not None]
    return feature("comfy.sample").fix_empty_latent_channels(model, samples, *scale)


def model_info(model: Any) -> ModelInfo:
    """Describe a model patcher."""
    latent_format = model.get_model_object("latent_format")
    # The demo model says itself what it is: the same network as on the command line. Its class is asked, since the host's
    # configurations answer None to any name they do not know, and complain in the log.
    kind, path = type(model.model.model_config), _checkpoint(model)
    return ModelInfo(
        name=str(getattr(kind, "dode_name", path.name if path else "")),
        family=str(getattr(kind, "dode_family", kind.__name__)),
        prediction=prediction_of(model.get_model_object("model_sampling")),
        channels=int(latent_format.latent_channels),
        fingerprint=str(getattr(kind, "dode_fingerprint", fingerprint(path) if path else "")),
        patches=patches_of(model),
    )


def _checkpoint(model: Any) -> Path | None:
    """The file that a model was loaded from. Private to the host, and absent for models that another pack's loader made."""
    made_by: Any = getattr(model, "cached_patcher_init", None)
    try:
        path = made_by[1][0]
    except (TypeError, IndexError, KeyError):
        return None
    return Path(path) if isinstance(path, str) and path else None
