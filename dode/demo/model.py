"""The embedded model: a small diffusion model that comes with the package, so that everything runs without a download."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from dode.demo.network import UNet
from dode.demo.pictures import CLASSES
from dode.errors import ModelError
from dode.files.fingerprint import fingerprint
from dode.sampling import Guided

WEIGHTS = Path(__file__).with_name("weights.safetensors")
SIGMA_DATA = 0.5


class EmbeddedModel:
    """A class-conditional denoiser of 32×32 colour pictures, with EDM's preconditioning (Karras et al. 2022, table 1).

    Called as ``model(x, sigma, context=None, guidance=1.0, both=False)``: x (B, 3, H, W), sigma (B,), context (B, 1, 8) from
    ``context_of``; without context, or with zeros, it is the null class. Guidance other than 1 mixes both (Ho and Salimans
    2022) and costs two evaluations of the network; ``both`` returns ``Guided`` then, with the difference of the two.

    Attributes:
        name, shape, channels, classes, sigma_min, sigma_max, family, prediction, fingerprint: what the command line and
            parameter files need to know.
    """

    name, family, prediction = "embedded", "dode.demo.UNet", "edm"
    shape, channels, classes = (3, 32, 32), 3, len(CLASSES)
    sigma_min, sigma_max = 0.02, 80.0

    def __init__(self, network: UNet, fingerprint: str = ""):
        self.network, self.fingerprint = network, fingerprint

    def __call__(
        self, x: Tensor, sigma: Tensor, context: Tensor | None = None, guidance: float = 1.0, both: bool = False
    ) -> Tensor | Guided:
        if guidance == 1 or context is None:
            return self._denoise(x, sigma, context)
        contexts = torch.cat([context, torch.zeros_like(context)])
        conditional, null = self._denoise(torch.cat([x, x]), torch.cat([sigma, sigma]), contexts).chunk(2)
        direction = conditional - null
        denoised = null + guidance * direction
        return Guided(denoised, direction) if both else denoised

    def _denoise(self, x: Tensor, sigma: Tensor, context: Tensor | None) -> Tensor:
        s = sigma.view(-1, *[1] * (x.ndim - 1)).to(x.dtype)
        scale = (s**2 + SIGMA_DATA**2).sqrt()
        raw = self.network(x / scale, sigma.to(x.dtype).log() / 4, context)
        return x * (SIGMA_DATA / scale) ** 2 + raw * (s * SIGMA_DATA / scale)

    def extra_args(self, guidance: float = 1.0, first: int = 0, both: bool = False) -> Callable[[Tensor], dict[str, Any]]:
        """For the fit: arguments by sample index. Sample i has class (first + i) modulo the number of classes."""
        given = {"guidance": guidance, "both": both}
        return lambda samples: {"context": context_of((samples + first) % len(CLASSES)), **given}


def context_of(labels: Tensor) -> Tensor:
    """Class numbers (B,) as the model's context (B, 1, 8)."""
    return torch.nn.functional.one_hot(labels, len(CLASSES)).float()[:, None]


def embedded_model(weights: Path = WEIGHTS, dtype: torch.dtype = torch.float32) -> EmbeddedModel:
    """Load the embedded model on the CPU.

    Raises:
        ModelError: the weights are missing or not those of this network.
    """
    network = UNet(len(CLASSES))
    try:
        network.load_state_dict(load_file(weights))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ModelError(
            f"The embedded model's weights {weights} cannot be used: {error}. Install the package anew."
        ) from error
    return EmbeddedModel(network.to(dtype).eval().requires_grad_(False), fingerprint(weights))


def training_record(weights: Path = WEIGHTS) -> dict[str, str]:
    """What the weights say of their training: steps, batch, minutes, loss."""
    with safe_open(weights, framework="pt") as file:
        return file.metadata() or {}
