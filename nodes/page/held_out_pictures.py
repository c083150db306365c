"""Pictures of held-out samples for the page: by a connected VAE, or as the host previews."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..fitting.fitted import Fitted
from ..host import log, previewer, ui
from .plot import to_tensor

Decode = Callable[[Tensor], Tensor]


def decoder(model: Any, vae: Any) -> Decode | None:
    """From latents (B, …), as the model has them, to IMAGE (B, H, W, 3); None where this host shows none."""
    if vae is not None:
        return lambda latents: _first_frames(vae.decode(model.model.process_latent_out(latents)))
    preview = previewer(model)
    if preview is None or not hasattr(preview, "decode_latent_to_preview"):
        return None
    return lambda latents: torch.cat([to_tensor(preview.decode_latent_to_preview(each)) for each in latents.split(1)])


def _first_frames(pictures: Tensor) -> Tensor:
    return pictures[:, 0] if pictures.ndim == 5 else pictures


def pictures(fitted: Fitted, decode: Decode | None, node: Any) -> list[dict[str, Any]] | None:
    """For the page: undistilled, distilled and many steps, of each the files of two samples; None where there are none.

    What cannot be decoded costs nobody the fit: the log says why.
    """
    if decode is None or fitted.ends is None:
        return None
    try:
        images = {key: decode(latents) for key, latents in fitted.ends._asdict().items()}
    except Exception as error:  # whatever a decoder of the host or of another pack raises
        log.warning("D-ODE: the held-out samples could not be decoded: %s", error)
        return None
    return [{"key": key, "pictures": ui.PreviewImage(image, cls=node).as_dict()["images"]} for key, image in images.items()]
