"""Classifier-free guidance in these hosts: at which scale a run is, and both of its outputs."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from dode.sampling import Guided

from .host import optional

_listening: list[Callable[[Any], None]] = []  # who hears the outputs before they are combined: nobody, or one run


def scale_of(model: Any, given: float) -> float:
    """The guidance scale of a run: the second pass of hires fix may have its own.

    Args:
        model: what the host gives a sampler.
        given: ``cond_scale`` of its ``extra_args``.
    """
    p = model.p
    scale = getattr(p, "hr_cfg", given) if getattr(p, "is_hr_pass", False) else given
    return float(scale) * float(getattr(model, "cond_scale_miltiplier", 1.0))


@contextmanager
def both_outputs(model: Any, scale: float) -> Iterator[Callable[..., Tensor | Guided]]:
    """The host's denoiser as one that returns ``Guided``, where the host has both outputs.

    Forge and reForge call what a model's patcher holds as ``sampler_post_cfg_function``: a copy of the patcher gets one, and
    stands in for it meanwhile. AUTOMATIC1111 calls those who registered for ``on_cfg_denoised``. At scale 1 the hosts skip
    the unconditional output. What is masked in img2img is the host's to keep: guidance counts where it is not.
    """
    if math.isclose(scale, 1.0):
        yield model
        return
    found: list[Tensor] = []

    def denoise(x: Tensor, sigma: Tensor, **arguments: Any) -> Tensor | Guided:
        found.clear()
        out = model(x, sigma, **arguments)
        if len(found) != 1 or found[0].shape != x.shape:  # several prompts to a sample (AND) have no single difference
            return out
        mask = getattr(model, "nmask", None)
        return Guided(out, (found[0] if mask is None else found[0] * mask).to(out))

    objects = getattr(model.inner_model.inner_model, "forge_objects", None)
    if objects is None:
        _listening.append(lambda batch: found.append(batch[: len(batch) // 2] - batch[len(batch) // 2 :]))
        try:
            yield denoise
        finally:
            _listening.pop()
        return

    def keep(arguments: dict[str, Any]) -> Tensor:
        conditional, other = arguments.get("cond_denoised"), arguments.get("uncond_denoised")
        if conditional is not None and other is not None:
            found[:] = [conditional - other]
        return arguments["denoised"]

    before = objects.unet
    objects.unet = before.clone()
    objects.unet.set_model_sampler_post_cfg_function(keep)
    try:
        yield denoise
    finally:
        objects.unet = before


def listen() -> None:
    """Register for the outputs in a host that hands them out to whoever registers, once for each start of its page.

    They come as one batch, the conditional ones first.
    """
    register = optional("modules.script_callbacks:on_cfg_denoised")
    if register is not None:
        register(lambda params: [hear(params.x) for hear in _listening if len(params.x) % 2 == 0])
