"""The samplers that ComfyUI and k-diffusion ship, called as those packages call them, in float64 throughout."""

import functools
import importlib
import inspect
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dode.methods import Stock
from dode.tableau import Array
from tests.comfyui import allow_cpu_only_torch, import_comfy


@functools.cache
def function_of(stock: Stock) -> Callable[..., Tensor]:
    """The function a ``Stock`` names, as ``f(model, x, sigmas, **options)``."""
    module, _, name = stock.function.partition(":")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import_comfy() if module.startswith("comfy") else allow_cpu_only_torch()
        target: Any = importlib.import_module(module)
    owner, _, member = name.rpartition(".")
    if owner:  # a step of DPM-Solver: taken in every interval, with an Euler step to σ = 0, as k-diffusion's own loops do
        return functools.partial(_in_every_interval, getattr(target, owner), member)
    function = getattr(target, name)
    if "sigma_min" in inspect.signature(function).parameters:  # called as ComfyUI's sampler list calls it
        return lambda model, x, sigmas, **options: function(
            model, x, sigmas[-1] if sigmas[-1] > 0 else sigmas[-2], sigmas[0], len(sigmas) - 1, **options
        )
    return function


def _in_every_interval(solver_class: Any, step: str, model: Any, x: Tensor, sigmas: Tensor, **options: Any) -> Tensor:
    solver = solver_class(model, options["extra_args"])
    for start, end in pairwise(sigmas):
        if end == 0:
            return model(x, start * x.new_ones([len(x)]))
        x, _ = getattr(solver, step)(x, solver.t(start), solver.t(end))
    return x


@functools.cache
def model_sampling(coordinate: str) -> Any:
    """ComfyUI's own description of a model: EDM, or flow matching without a shift."""
    import_comfy()
    module = importlib.import_module("comfy.model_sampling")
    parts = {
        "log_sigma": (module.ModelSamplingContinuousEDM, module.EDM),
        "flow": (module.ModelSamplingDiscreteFlow, module.CONST),
    }
    return type("ModelSampling", parts[coordinate], {})()


class StockModel:
    """A denoiser with what stock samplers look up on a model, and a record of its calls."""

    def __init__(self, denoiser: Callable[[Tensor, Tensor], Tensor], coordinate: str):
        sampling = model_sampling(coordinate)
        patcher = types.SimpleNamespace(get_model_object=lambda name: {"model_sampling": sampling}[name])
        base = types.SimpleNamespace(model_sampling=sampling)
        self.inner_model = types.SimpleNamespace(inner_model=base, model_patcher=patcher)
        self.denoiser = denoiser
        self.calls: list[tuple[float, Tensor]] = []

    def __call__(self, x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
        self.calls.append((float(sigma.flatten()[0]), x.clone()))
        return self.denoiser(x, sigma)


class OneHot:
    """A model whose k-th output is the k-th unit vector, so that every point shows the weights it was made with."""

    def __init__(self, outputs: int):
        self.outputs, self.made = outputs, 0

    def start(self) -> Tensor:
        return torch.eye(self.outputs + 1, dtype=torch.float64)[:1]

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.made += 1
        return torch.eye(self.outputs + 1, dtype=torch.float64)[self.made : self.made + 1]


@contextmanager
def double_precision() -> Iterator[None]:
    """Make stock code that asks for float32, or for the default type, work in float64, and keep its warnings to itself."""
    single, default = torch.float32, torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.float32 = torch.float64  # type: ignore[misc]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.float32 = single  # type: ignore[misc]
        torch.set_default_dtype(default)


def run_stock(stock: Stock, order: int, model: StockModel, x: Tensor, sigmas: Array, **more: Any) -> Tensor:
    """Run a stock sampler on copies of its inputs."""
    function = function_of(stock)
    options: Mapping[str, Any] = {"extra_args": {}, **stock.options(order), **more}
    parameters = inspect.signature(function).parameters
    if "noise_sampler" in parameters:  # at η = 0 its noise is multiplied by 0; it must not need a real one
        options = {**options, "noise_sampler": lambda *_: torch.zeros_like(x)}
    with double_precision():
        return function(model, x.clone(), torch.tensor(np.array(sigmas)), disable=True, **options)


def works(stock: Stock, order: int, sigmas: Array) -> bool:
    """Whether the stock function can run on this grid, by what its entry declares."""
    steps = len(sigmas) - 1
    return stock.fewest_steps <= steps and steps - (sigmas[-1] == 0) <= stock.most_steps(order)


def grids(coordinate: str, steps: int) -> dict[str, Array]:
    """Grids of as many steps as asked for, by name, that end at 0."""
    u = np.linspace(0, 1, steps + 1)[:-1]
    wild = np.random.default_rng(steps).uniform(0.3, 0.9, steps)
    if coordinate == "flow":
        shapes = {
            "karras": (0.995 ** (1 / 7) + u * (0.01 ** (1 / 7) - 0.995 ** (1 / 7))) ** 7,
            "exponential": 0.99 * (0.01 / 0.99) ** u,
            "linear in t": 1 - u,
            "beta": 0.5 + 0.5 * np.cos(np.pi * u),
            "irregular": 0.98 * np.cumprod(wild) ** 0.7 + 0.003,
        }
    else:
        t = 1 - u * (1 - 1e-3)
        shapes = {
            "karras": (80 ** (1 / 7) + u * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7,
            "exponential": 80 * (0.002 / 80) ** u,
            "linear in t": np.sqrt(np.expm1(9.95 * t**2 + 0.1 * t)),
            "beta": np.sqrt(np.expm1(9.95 * (b := 1e-3 + 0.999 * (0.5 + 0.5 * np.cos(np.pi * u))) ** 2 + 0.1 * b)),
            "irregular": 40 * np.cumprod(wild) ** 0.7 + 0.003,
        }
    return {name: np.append(grid, 0.0) for name, grid in shapes.items()}
