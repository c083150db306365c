"""A model's noise levels as a scheduler's configuration describes them, and what its outputs say of x0.

Models that predict ε or v are trained on variance-preserving inputs and told a timestep; here x = x0 + σ n, as in k-diffusion
and in diffusers' Euler scheduler, with σ = √((1 - ᾱ)/ᾱ). Flow-matching models have x = (1 - σ) x0 + σ n, and the timestep is σ
times the number of trained ones.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dode.errors import GridError, ModelError
from dode.tableau import Array

FLOW = "flow_prediction"
WORDS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0", FLOW: "flow"}
"""diffusers' names of what a model predicts, and the parameter file's."""
_LAST_OF_ZERO_SNR = 2.0**-24  # ᾱ of the noisiest timestep, as diffusers has it, where it would be 0


class Levels:
    """Noise levels of a trained model.

    Args:
        config: a scheduler's: prediction_type, num_train_timesteps, and either the betas' fields or shift's.

    Attributes:
        flow: whether it is a flow-matching model.
        range: lowest and highest trained level.
        alphas_cumprod: ᾱ (T,) of the trained timesteps; None for flow matching.

    Raises:
        ModelError: a prediction type or a beta schedule that is not known.
    """

    def __init__(self, config: Mapping[str, Any]):
        self._kind, self._count, self._config = config["prediction_type"], int(config["num_train_timesteps"]), config
        if self._kind not in WORDS:
            raise ModelError(f"prediction_type must be one of {', '.join(WORDS)}, got {self._kind!r}.")
        self.flow = self._kind == FLOW
        self.alphas_cumprod: Tensor | None = None
        if self.flow:
            low, high = 1 / self._count, 1.0
            self.range = (low if config["use_dynamic_shifting"] else float(_shift(np.array(low), config["shift"])), high)
        else:
            self.alphas_cumprod = _alphas_cumprod(config)
            kept = self.alphas_cumprod.double().numpy()
            self._trained: Array = np.sqrt((1 - kept) / kept)
            self.range = (float(self._trained[0]), float(self._trained[-1]))

    def timestep(self, sigma: float) -> float:
        """The timestep that stands for a noise level: of the trained ones the nearest in ln σ, as in ComfyUI, or where
        ``round_timesteps`` is off what lies between two, as in diffusers' Euler scheduler."""
        if self.flow:
            return sigma * self._count
        logs, log = np.log(self._trained), math.log(max(sigma, 1e-10))
        if self._config["round_timesteps"]:
            return float(np.abs(logs - log).argmin())
        return float(np.interp(log, logs, np.arange(len(logs))))

    def sigma(self, timestep: float) -> float:
        """The noise level of a timestep, interpolated between trained ones."""
        if self.flow:
            return timestep / self._count
        return float(np.interp(timestep, np.arange(self._count), self._trained))

    def shifted(self, sigmas: Array, mu: float | None) -> Array:
        """Levels (n,) of an unshifted flow schedule, as the configuration shifts them; ``mu`` depends on the resolution.

        Raises:
            GridError: a configuration that shifts by mu, without mu.
        """
        config = self._config
        if not self.flow:
            return sigmas
        if config["use_dynamic_shifting"]:
            if mu is None:
                raise GridError("This configuration shifts noise levels by the resolution (use_dynamic_shifting): pass mu.")
            sigmas = _shift(sigmas, math.exp(mu) if config["time_shift_type"] == "exponential" else mu)
        else:
            sigmas = _shift(sigmas, config["shift"])
        if config["shift_terminal"]:
            sigmas = 1 - (1 - sigmas) * (1 - config["shift_terminal"]) / (1 - sigmas[-1])
        return sigmas

    def start(self, sigma: float) -> float:
        """What unit noise is multiplied by at the start. As in ComfyUI, the highest level of a variance-preserving model also
        has the variance of the data, of which nothing is seen there."""
        full = not self.flow and sigma >= self.range[1] * (1 - 1e-5)
        return math.hypot(1.0, sigma) if full else sigma

    def noisy(self, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """x at noise levels that broadcast to x0."""
        return (1 - sigma) * x0 + sigma * noise if self.flow else x0 + sigma * noise

    def input_scale(self, sigma: float) -> float:
        """What x is multiplied by before the model gets it."""
        return 1.0 if self.flow else 1 / math.hypot(1.0, sigma)

    def denoised(self, output: Tensor, x: Tensor, sigma: float) -> Tensor:
        """The estimate of x0 in the model's output for x at the noise level that it was told."""
        if self._kind == "sample":
            return output.to(x.dtype)
        if self._kind == "v_prediction":
            return torch.add(x / (sigma * sigma + 1), output, alpha=self.slope(sigma))
        return torch.add(x, output, alpha=-sigma)

    def slope(self, sigma: float) -> float:
        """How the estimate of x0 changes with the output: what a difference of outputs is multiplied by."""
        return {"sample": 1.0, "v_prediction": -sigma / math.hypot(1.0, sigma)}.get(self._kind, -sigma)


def usual(steps: int) -> Array:
    """The unshifted flow schedule that pipelines pass as sigmas where nobody asked for others, (steps,)."""
    return np.linspace(1.0, 1 / steps, steps)


def _shift(sigmas: Array, shift: float) -> Array:
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def _alphas_cumprod(config: Mapping[str, Any]) -> Tensor:
    """ᾱ (T,) from the betas that diffusers' schedulers know, in their precision."""
    count, low, high = int(config["num_train_timesteps"]), config["beta_start"], config["beta_end"]
    if config["trained_betas"] is not None:
        betas = torch.tensor(config["trained_betas"], dtype=torch.float32)
    elif config["beta_schedule"] == "linear":
        betas = torch.linspace(low, high, count, dtype=torch.float32)
    elif config["beta_schedule"] == "scaled_linear":
        betas = torch.linspace(low**0.5, high**0.5, count, dtype=torch.float32) ** 2
    elif config["beta_schedule"] == "squaredcos_cap_v2":
        bar = torch.cos((torch.arange(count + 1, dtype=torch.float64) / count + 0.008) / 1.008 * math.pi / 2) ** 2
        betas = (1 - bar[1:] / bar[:-1]).clamp(max=0.999).float()
    else:
        raise ModelError(
            f"beta_schedule must be linear, scaled_linear or squaredcos_cap_v2, got {config['beta_schedule']!r}; "
            "or give trained_betas."
        )
    found = torch.cumprod(1 - betas, dim=0)
    if config["rescale_betas_zero_snr"]:  # Lin et al. 2023, algorithm 1
        root = found.sqrt()
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        found = root**2
        found[-1] = _LAST_OF_ZERO_SNR
    return found
