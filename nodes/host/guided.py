"""Both outputs of classifier-free guidance, as the fit and the samplers want them; and an entry run on the host's model."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from dode.errors import FitError, ModelError
from dode.files.parameter_file import Entry
from dode.sampling import Guided, sample

from . import feature

KSAMPLER: Any = feature("comfy.samplers:KSAMPLER")
CFGGuider: Any = feature("comfy.samplers:CFGGuider")
_add_post_cfg = feature("comfy.model_patcher:set_model_options_post_cfg_function")


def is_plain(guider: Any) -> bool:
    """Whether a guider guides in the usual way, by one scale. Others call the same functions with outputs of their own."""
    return getattr(type(guider), "predict_noise", None) is CFGGuider.predict_noise


def scale_of(guider: Any) -> float | None:
    """The guidance scale; None for a guider that has no single one."""
    scale = getattr(guider, "cfg", None)
    return float(scale) if is_plain(guider) and isinstance(scale, (int, float)) else None


def guider_of(model_k: Any) -> Any:
    """The guider behind the model that a host's sampler gets; None where another pack has wrapped that without a way to it."""
    found = model_k
    while found is not None and not hasattr(found, "model_patcher"):
        found = getattr(found, "inner_model", None)
    return found


def has_channel(guider: Any, options: dict[str, Any]) -> bool:
    """Whether a guider weighs two outputs in the usual way: not where its scale is 1, unless a patch asks for both. ``options``
    are the model's."""
    scale = scale_of(guider)
    return scale is not None and (not math.isclose(scale, 1.0) or bool(options.get("disable_cfg1_optimization")))


def without_negative(model: Any) -> Any:
    """A model to sample at guidance 1 with any negative prompt, which the host leaves out.

    Raises (when it samples):
        FitError: a patch guides all the same.
    """

    def check(args: dict[str, Any]) -> Tensor:
        scale = args.get("cond_scale", 1.0)
        if args.get("uncond") is not None and not math.isclose(scale, 1.0):
            raise FitError(
                f"cfg is 1, and a patch on the model guides with {scale:g}, as CFG Override does. Connect negative, or take "
                "the patch off the model."
            )
        return args["denoised"]

    patched = model.clone()
    patched.set_model_sampler_post_cfg_function(check)
    return patched


def with_guidance(model_k: Any, options: dict[str, Any]) -> Callable[..., Tensor | Guided]:
    """The model that a host's sampler gets, as a denoiser that returns ``Guided`` where the guider weighs two outputs.

    Where it has one output all the same, as under a patch that sets the scale to 1 for some of the steps, their difference
    counts as 0: what a patch switches off for a while stays off. Patches that guide in another way keep their say in the
    denoised output.
    """
    guider = guider_of(model_k)
    if guider is None or not has_channel(guider, options):
        return model_k

    def denoise(x: Tensor, sigma: Tensor, **extra_args: Any) -> Tensor | Guided:
        found: list[Tensor] = []

        def keep(args: dict[str, Any]) -> Tensor:
            conditional, other = args.get("cond_denoised"), args.get("uncond_denoised")
            # At guidance 1 the host skips the unconditional output, and hands out zeros in its place.
            if args.get("uncond") is not None and conditional is not None and other is not None:
                found[:] = [conditional - other]
            return args["denoised"]

        options = _add_post_cfg(dict(extra_args.get("model_options") or {}), keep)
        out = model_k(x, sigma, **{**extra_args, "model_options": options})
        if not found:
            return Guided(out, torch.zeros_like(out))
        mask = _mask_at(model_k, sigma, extra_args)  # what is masked is the host's to keep
        return Guided(out, (found[0] if mask is None else found[0] * mask).to(out))

    return denoise


def _mask_at(model_k: Any, sigma: Tensor, extra_args: dict[str, Any]) -> Any:
    """The mask of what is sampled at a noise level: patches may let it change on the way."""
    mask, function = extra_args.get("denoise_mask"), (extra_args.get("model_options") or {}).get("denoise_mask_function")
    if mask is None or function is None:
        return mask
    around = {"model": getattr(model_k, "inner_model", None), "sigmas": getattr(model_k, "sigmas", None)}
    return function(sigma, mask, extra_options=around)


def start_at(guider: Any, noise: Tensor, sigma: float, image: Tensor | None = None) -> Tensor:
    """Where the host starts a latent image, without one an empty latent, at a noise level."""
    level = torch.tensor(sigma, dtype=torch.float32, device=noise.device)
    ending = KSAMPLER(None).max_denoise(guider, [sigma])
    image = torch.zeros_like(noise) if image is None else image
    return guider.inner_model.model_sampling.noise_scaling(level, noise, image, ending)


def run_entry(
    entry: Entry, model_k: Any, x: Tensor, sigmas: Tensor, extra_args: Any, callback: Any, disable: Any, strength: float = 1.0
) -> Tensor:
    """Sample on the host's model, on the noise levels of an entry or a part of them.

    Raises:
        ParameterError: the noise levels are not the entry's. ModelError: it weighs two outputs, and there is only one.
    """
    if len(sigmas) < 2:
        return x
    grid = sigmas.tolist()
    tableau = entry.parameters.tableau(grid, strength)
    arguments = dict(extra_args or {})
    options = arguments.get("model_options") or {}
    if tableau.model_sigmas is not None:  # patches look up the level that the model is told
        arguments["model_options"] = told(options, [*tableau.model_sigmas, grid[-1]], sigmas.device)
    if tableau.guided and guider_of(model_k) is None:
        raise ModelError(
            "These D-ODE parameters weigh the conditional and the unconditional output, and a node between sampler and model "
            "hides which guider there is. Connect the sampler without that node, or distill in mode paper."
        )
    denoiser = with_guidance(model_k, options) if tableau.guided else model_k
    return sample(denoiser, x, tableau, extra_args=arguments, callback=callback, disable=disable)


def told(options: dict[str, Any], sigmas: Sequence[float], device: torch.device) -> dict[str, Any]:
    """Model options with the noise levels in which patches look up where in the trajectory they are.

    They lie where the host's own list does, which patches compare with noise levels of the model's calls; ``device`` is for a
    host that has filled in none.
    """
    inside = options.get("transformer_options") or {}
    own = inside.get("sample_sigmas")
    levels = torch.tensor(sigmas, dtype=torch.float32, device=own.device if isinstance(own, Tensor) else device)
    return {**options, "transformer_options": {**inside, "sample_sigmas": levels}}
