"""Both outputs of classifier-free guidance, as the fit and the samplers want them; and an entry run on the host's model."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

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
    return getattr(guider, "cfg", None) if is_plain(guider) else None


def with_guidance(model_k: Any) -> Callable[..., Tensor | Guided]:
    """The model that a host's sampler gets, as a denoiser that returns ``Guided`` wherever the host has both outputs.

    It has one only where guidance is 1, or where the guider is not the usual one. Patches that guide in another way keep
    their say in the denoised output.
    """
    if not is_plain(model_k.inner_model):
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
            return out
        mask = extra_args.get("denoise_mask")  # what is masked is the host's to keep
        return Guided(out, (found[0] if mask is None else found[0] * mask).to(out))

    return denoise


def start_at(guider: Any, noise: Tensor, sigma: float) -> Tensor:
    """Where the host starts an empty latent at a noise level."""
    level = torch.tensor(sigma, dtype=torch.float32, device=noise.device)
    ending = KSAMPLER(None).max_denoise(guider, [sigma])
    return guider.inner_model.model_sampling.noise_scaling(level, noise, torch.zeros_like(noise), ending)


def run_entry(
    entry: Entry, model_k: Any, x: Tensor, sigmas: Tensor, extra_args: Any, callback: Any, disable: Any, strength: float = 1.0
) -> Tensor:
    """Sample on the host's model, on the noise levels of an entry or a part of them.

    Raises:
        ParameterError: the noise levels are not the entry's.
    """
    if len(sigmas) < 2:
        return x
    tableau = entry.parameters.tableau(sigmas.tolist(), strength)
    arguments = dict(extra_args or {})
    if tableau.model_sigmas is not None:  # patches look up the level that the model is told
        arguments["model_options"] = told(arguments.get("model_options") or {}, [*tableau.model_sigmas, float(sigmas[-1])])
    denoiser = with_guidance(model_k) if tableau.guided else model_k
    return sample(denoiser, x, tableau, extra_args=arguments, callback=callback, disable=disable)


def on_own_grid(entry: Entry, model_k: Any, x: Tensor, sigmas: Tensor) -> tuple[Tensor, Tensor]:
    """A start at other noise levels moved to the start of the entry's own: right for an empty latent."""
    own = sigmas.new_tensor(entry.parameters.sigmas)
    one = torch.ones(1)
    given, wanted = (float(start_at(model_k.inner_model, one, float(first))) for first in (sigmas[0], own[0]))
    return x * (wanted / given), own


def told(options: dict[str, Any], sigmas: list[float]) -> dict[str, Any]:
    """Model options with the noise levels in which patches look up where in the trajectory they are."""
    levels = torch.tensor(sigmas, dtype=torch.float32)
    return {**options, "transformer_options": {**options.get("transformer_options", {}), "sample_sigmas": levels}}
