"""k-diffusion: its models as denoisers, and samplers in place of its own. Needs the optional extra ``k-diffusion``.

    model = load_model("config.json", "checkpoint.safetensors")
    x0 = sample_dpmpp_2m(model, x, sigmas)

Each ``sample_*`` here takes what the function of that name in ``k_diffusion.sampling`` takes and gives the same result;
``drop_in(name, parameters)`` gives the distilled one.
"""

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dode.correction import Parameters
from dode.errors import DependencyError, MethodError, ModelError, ParameterError
from dode.sampling import Sampler, make_sampler

NAMES = {
    "sample_euler": "euler",
    "sample_heun": "heun",
    "sample_dpm_2": "dpm_2",
    "sample_lms": "lms_k_diffusion",
    "sample_dpm_fast": "dpm_fast",
    "sample_dpmpp_2m": "dpmpp_2m",
    "sample_dpmpp_2s_ancestral": "dpmpp_2s",
    "sample_dpmpp_sde": "dpmpp_2s",
    "sample_dpmpp_2m_sde": "dpmpp_2m",
    "sample_dpmpp_3m_sde": "dpmpp_3m",
}
"""k-diffusion's samplers on a fixed grid that are deterministic, if only with eta = 0, and the solvers that reproduce them."""
NOISY = ("sample_dpmpp_2s_ancestral", "sample_dpmpp_sde", "sample_dpmpp_2m_sde", "sample_dpmpp_3m_sde")
"""Those of them that add noise unless they are called with eta = 0."""
_TYPES = {"midpoint": "dpmpp_2m", "heun": "dpmpp_2m_heun"}  # of sample_dpmpp_2m_sde


class KDiffusionModel:
    """A k-diffusion model with what distillation must know of it.

    Attributes:
        shape: (channels, height, width) of one sample.
        sigma_min, sigma_max: the range of noise levels in its config.
        classes: number of classes; 0 for a model without.
        network: k-diffusion's own denoiser wrapper around its network.
    """

    prediction = "edm"
    flow = False

    def __init__(self, network: torch.nn.Module, config: Mapping[str, Any], name: str):
        options = config["model"]
        self.network, self.name = network.eval().requires_grad_(False), name
        self.family = f"k-diffusion {options['type']}"
        self.channels = int(options["input_channels"])
        self.shape = (self.channels, *map(int, options["input_size"]))
        self.sigma_min, self.sigma_max = float(options["sigma_min"]), float(options["sigma_max"])
        self.classes = int(config["dataset"]["num_classes"])

    def __call__(self, x: Tensor, sigma: Tensor, guidance: float = 1.0, **extra_args: Any) -> Tensor:
        """Denoise a batch (B, C, H, W) at sigma (B,). ``class_cond`` (B,) are the classes of a model that has them."""
        conditional = self.network(x, sigma, **extra_args)
        if guidance == 1:
            return conditional
        nothing = torch.full_like(extra_args["class_cond"], self.classes)
        unconditional = self.network(x, sigma, **{**extra_args, "class_cond": nothing})
        return unconditional + guidance * (conditional - unconditional)

    def extra_args(self, guidance: float) -> Callable[[Tensor], dict[str, Any]]:
        """Further arguments by sample index: the classes in turn, for a model that has them.

        Raises:
            ModelError: guidance for a model without classes.
        """
        if not self.classes:
            if guidance != 1:
                raise ModelError(f"{self.name} has no classes, so there is nothing to guide it with; leave guidance at 1.")
            return lambda samples: {}
        device = next(self.network.parameters()).device
        return lambda samples: {"class_cond": (samples % self.classes).to(device), "guidance": guidance}

    def to(self, device: torch.device | str) -> "KDiffusionModel":
        """Move the network; returns the model."""
        self.network.to(device)
        return self


def _package() -> Any:
    try:
        return importlib.import_module("k_diffusion")
    except ImportError as error:
        raise DependencyError(
            f"k-diffusion cannot be imported ({error}). Install it with: pip install 'd-ode[k-diffusion]'"
        ) from error


def load_model(config: str | Path, checkpoint: str | Path) -> KDiffusionModel:
    """Load a k-diffusion model from its own files.

    Args:
        config: k-diffusion's JSON config, or a .safetensors that carries one.
        checkpoint: the network's weights: a .safetensors, or a training checkpoint (.pth), of which the averaged weights are
            taken. Reading either runs no code.

    Raises:
        DependencyError: k-diffusion is not installed. ModelError: a file that cannot be read, or weights of another model.
    """
    package = _package()
    try:
        content = package.config.load_config(Path(config))
        network = package.config.make_model(content)
        wrapped = package.config.make_denoiser_wrapper(content)(network)
        model = KDiffusionModel(wrapped, content, Path(checkpoint).stem)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{config} is not a k-diffusion config: {type(error).__name__}: {error}") from error
    try:
        network.load_state_dict(_weights(Path(checkpoint)))
    except Exception as error:  # the readers raise types of their own
        raise ModelError(f"{checkpoint} does not hold the weights of {config}: {type(error).__name__}: {error}") from error
    return model


def _weights(checkpoint: Path) -> dict[str, Tensor]:
    if checkpoint.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(checkpoint)
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    return content.get("model_ema", content.get("model", content))


def drop_in(name: str, parameters: Parameters | None = None) -> Sampler:
    """A function to use in place of ``k_diffusion.sampling.<name>``, with its signature.

    Args:
        name: one of ``NAMES``.
        parameters: distilled parameters of the solver of that name; without them the solver as it is.

    Returns:
        ``f(model, x, sigmas, extra_args=None, callback=None, disable=None, …)``; for sample_dpm_fast, sigma_min, sigma_max
        and n stand in place of sigmas. Options that would add noise must be off, and where they are on by default, eta must be
        given as 0.

    Raises:
        MethodError: no such sampler, or, when called, an option that would add noise or that there is not. ParameterError:
        parameters of another solver, or, when called, an option that is not theirs.

    Example:
        >>> sampler = drop_in("sample_dpmpp_2m_sde")
        >>> sampler(lambda x, sigma: 0 * x, torch.ones(1, 2), torch.tensor([10.0, 3.0, 0.0]), disable=True, eta=0).tolist()
        [[0.0, 0.0]]
    """
    if name not in NAMES:
        raise MethodError(f"{name!r} is no deterministic sampler of k-diffusion. Choose one of: {', '.join(NAMES)}.")
    methods = tuple(_TYPES.values()) if name == "sample_dpmpp_2m_sde" else (NAMES[name],)
    if parameters is not None and parameters.method not in methods:
        wanted = " or ".join(repr(method) for method in methods)
        raise ParameterError(f"{name} needs parameters of {wanted}, got some of {parameters.method!r}.")

    def on_grid(
        model: Callable[..., Tensor],
        x: Tensor,
        sigmas: Tensor,
        extra_args: Mapping[str, Any] | None = None,
        callback: Callable[[dict[str, Any]], None] | None = None,
        disable: bool | None = None,
        **options: Any,
    ) -> Tensor:
        _no_noise(name, options)
        method, order = _chosen(name, options)
        if parameters is None:
            sampler = make_sampler(method or NAMES[name], order=order)
        else:
            if order not in (None, parameters.order):
                raise ParameterError(f"These parameters are of order {parameters.order}, not {order}. Leave order out.")
            if method not in (None, parameters.method):
                raise ParameterError(f"These parameters are of {parameters.method!r}, not {method!r}. Leave solver_type out.")
            sampler = make_sampler(parameters)
        return sampler(model, x, sigmas, extra_args, callback, disable)

    def fast(
        model: Callable[..., Tensor], x: Tensor, sigma_min: float, sigma_max: float, n: int, *args: Any, **options: Any
    ) -> Tensor:
        ends = (float(sigma_max), float(sigma_min))
        if parameters is None:
            grid = np.geomspace(*ends, n + 1)
        else:
            grid, base = np.array(parameters.sigmas), parameters.base()
            if base.evaluations != n or not np.allclose([base.sigma, base.rows[-1].sigma], ends, rtol=1e-4):
                raise ParameterError(
                    f"These parameters are for {base.evaluations} evaluations from sigma {base.sigma:g} to "
                    f"{base.rows[-1].sigma:g}, not for {n} from {ends[0]:g} to {ends[1]:g}."
                )
        return on_grid(model, x, torch.from_numpy(grid), *args, **options)

    sampler = fast if name == "sample_dpm_fast" else on_grid
    sampler.__name__ = name if parameters is None else f"{name}_distilled"
    return sampler


def _no_noise(name: str, options: Mapping[str, Any]) -> None:
    for option in ("s_churn", "eta"):
        if options.get(option):
            raise MethodError(f"{name} with {option} = {options[option]} adds noise; a D-ODE sampler is for {option} = 0.")
    if name in NOISY and "eta" not in options:
        raise MethodError(f"{name} adds noise unless eta is 0, and a D-ODE sampler adds none. Call it with eta=0.")


def _chosen(name: str, options: Mapping[str, Any]) -> tuple[str | None, int | None]:
    """The solver and the order that the options ask for; None where they do not say."""
    known = {"s_churn", "s_tmin", "s_tmax", "s_noise", "eta", "noise_sampler"}
    known |= {"sample_lms": {"order"}, "sample_dpmpp_sde": {"r"}, "sample_dpmpp_2m_sde": {"solver_type"}}.get(name, set())
    unknown = sorted(set(options) - known)
    if unknown:
        raise MethodError(f"{name} has no option {unknown[0]!r}.")
    if options.get("r", 0.5) != 0.5:
        raise MethodError(f"{name} is there with r = 1/2 alone, got {options['r']}.")
    kind = options.get("solver_type")
    if kind is not None and kind not in _TYPES:
        raise MethodError(f"solver_type must be one of {', '.join(_TYPES)}, got {kind!r}.")
    return (_TYPES[kind] if kind is not None else None), options.get("order")


sample_euler = drop_in("sample_euler")
sample_heun = drop_in("sample_heun")
sample_dpm_2 = drop_in("sample_dpm_2")
sample_lms = drop_in("sample_lms")
sample_dpm_fast = drop_in("sample_dpm_fast")
sample_dpmpp_2m = drop_in("sample_dpmpp_2m")
sample_dpmpp_2s_ancestral = drop_in("sample_dpmpp_2s_ancestral")
sample_dpmpp_sde = drop_in("sample_dpmpp_sde")
sample_dpmpp_2m_sde = drop_in("sample_dpmpp_2m_sde")
sample_dpmpp_3m_sde = drop_in("sample_dpmpp_3m_sde")
