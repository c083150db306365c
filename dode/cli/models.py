"""Models for the command line: the embedded one, or any denoiser a Python function returns."""

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dode.errors import ModelError
from dode.files.fingerprint import fingerprint
from dode.files.parameter_file import ModelInfo
from dode.sampling import Denoiser

EMBEDDED = "embedded"


@dataclass(frozen=True)
class Model:
    """A denoiser with what is needed to sample and distill it.

    Attributes:
        denoiser: ``denoiser(x, sigma, **extra_args)``.
        shape: of one sample, without the batch.
        sigma_min, sigma_max: range of noise levels for schedules.
        coordinate: "flow" for flow matching, else "log_sigma".
        extra_args: a function from sample indices to the denoiser's further arguments.
        classes: how many there are, where that function deals them to the samples in turn; else 0.
        info: what a parameter file says of it.
        device: where it wants its input.
    """

    denoiser: Denoiser
    shape: tuple[int, ...]
    sigma_min: float
    sigma_max: float
    coordinate: str
    extra_args: Callable[[Tensor], dict[str, Any]]
    classes: int
    info: ModelInfo
    device: torch.device

    def noise(self, count: int, seed: int, sigma: float) -> Tensor:
        """Noisy starts (count, …) at a noise level, float32 on the CPU; sample i depends on the seed and i alone."""
        generator = torch.Generator().manual_seed(seed)
        return torch.stack([torch.randn(self.shape, generator=generator) for _ in range(count)]) * sigma

    def groups(self, count: int) -> list[int] | None:
        """For each of so many samples the number of its class; None where nothing is known of classes."""
        return [i % self.classes for i in range(count)] if self.classes else None


def load_model(
    spec: str = EMBEDDED,
    *,
    k_diffusion: tuple[str, str] | None = None,
    shape: tuple[int, ...] | None = None,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    guidance: float = 1.0,
    device: str = "cpu",
) -> Model:
    """Load the model a command works on.

    Args:
        spec: "embedded", or ``package.module:function``, a function without arguments that returns a denoiser. That may carry
            attributes shape, sigma_min, sigma_max, flow (bool), name, family, prediction, channels, fingerprint, and a method
            ``extra_args(guidance) -> (sample indices -> dict)``; the options here come before them. If that method takes an
            argument ``both``, it gets True, and the denoiser is to return ``Guided``. If it deals classes to the samples in
            turn, an attribute ``classes`` says how many, and whole classes are held out.
        k_diffusion: config and checkpoint of a k-diffusion model, in place of ``spec``.
        shape, sigma_min, sigma_max: in place of the denoiser's own attributes.
        guidance: passed to ``extra_args`` where the denoiser has that.
        device: where the denoiser wants its input.

    Raises:
        ModelError: no such module or function, or something needed is not known.
    """
    denoiser: Any
    if k_diffusion is not None:
        from dode import kdiffusion

        denoiser = kdiffusion.load_model(*k_diffusion).to(device)
        spec = k_diffusion[1]
    elif spec == EMBEDDED:
        from dode.demo.model import embedded_model

        denoiser = embedded_model()
        if device != "cpu":
            denoiser.network.to(device)
    else:
        denoiser = _call(spec)
    flow = bool(getattr(denoiser, "flow", False))
    usual: dict[str, Any] = {"sigma_min": 0.001, "sigma_max": 1.0} if flow else {}
    known: dict[str, Any] = {"shape": shape, "sigma_min": sigma_min, "sigma_max": sigma_max}
    for name, given in known.items():
        if given is None:
            known[name] = getattr(denoiser, name, usual.get(name))
        if known[name] is None:
            option = "--" + name.replace("_", "-")
            raise ModelError(f"{spec} does not say its {name}. Give {option}, or let the denoiser have an attribute {name}.")
    maker: Any = getattr(denoiser, "extra_args", None)
    if guidance != 1 and maker is None:
        raise ModelError(
            f"--guidance {guidance:g} needs a denoiser with a method extra_args(guidance); {spec} has none. "
            "Apply guidance inside it."
        )
    info = ModelInfo(
        name=str(getattr(denoiser, "name", spec)),
        family=str(getattr(denoiser, "family", type(denoiser).__name__)),
        prediction=str(getattr(denoiser, "prediction", "flow" if flow else "")),
        channels=int(getattr(denoiser, "channels", known["shape"][0])),
        fingerprint=str(getattr(denoiser, "fingerprint", "")) if k_diffusion is None else fingerprint(k_diffusion[1]),
    )
    return Model(
        denoiser,
        tuple(known["shape"]),
        float(known["sigma_min"]),
        float(known["sigma_max"]),
        "flow" if flow else "log_sigma",
        _extra_args(maker, guidance),
        int(getattr(denoiser, "classes", 0)),
        info,
        torch.device(device),
    )


def _extra_args(maker: Any, guidance: float) -> Callable[[Tensor], dict[str, Any]]:
    if maker is None:
        return lambda samples: {}
    takes_both = any(p.name == "both" for p in _parameters(maker))
    return maker(guidance, both=True) if takes_both else maker(guidance)


def _call(spec: str) -> Any:
    module_name, _, function_name = spec.partition(":")
    if not module_name or not function_name:
        raise ModelError(f"A model is 'embedded' or 'package.module:function', got {spec!r}.")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ModelError(f"{module_name} cannot be imported: {type(error).__name__}: {error}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ModelError(f"{module_name} has no function {function_name!r}.")
    if any(p.default is p.empty and p.kind is not p.VAR_KEYWORD for p in _parameters(function)):
        raise ModelError(f"{spec} takes arguments; name a function without arguments that returns the denoiser.")
    try:
        denoiser = function()
    except Exception as error:
        raise ModelError(f"{spec} failed: {type(error).__name__}: {error}") from error
    if not callable(denoiser):
        raise ModelError(f"{spec} returned {type(denoiser).__name__}, which is not a denoiser: it cannot be called.")
    return denoiser


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return [p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_POSITIONAL]
    except (TypeError, ValueError):
        return []
