"""The best of all stock samplers on all stock schedules, within a number of model evaluations.

Every deterministic sampler that ComfyUI and k-diffusion ship, at every order they offer, on every scheduler of ComfyUI and on
the tables of its nodes Align Your Steps, GITS and OptimalSteps. The candidates are ranked with the package's own tables,
which the golden tests hold to 1e-9 of the stock functions; the finalists are run by the stock functions themselves, in float32
as a user has them, and the figure that counts is theirs, with their calls of the model counted.
"""

import importlib
import inspect
import types
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.models.bench_models import BenchModel
from dode.errors import DodeError
from dode.fit.held_out import rms
from dode.methods import METHODS, Stock, build_tableau, steps_within
from dode.methods.refused import refusal
from dode.sampling import sample
from dode.tableau import Array, Tableau
from tests.comfyui import allow_cpu_only_torch, import_comfy
from tests.stock import StockModel, function_of, works

# All candidates on a few samples, 15 % of them on more, the best 6 on all. The samples are those of the test, and so is
# the choice of the winner: it can only favour stock.
KEPT, FINALISTS = 0.15, 6


@dataclass(frozen=True)
class Candidate:
    """A stock sampler on a stock schedule: the name of both, the function that runs it, and its table."""

    name: str
    stock: Stock
    order: int
    tableau: Tableau
    sigmas: Array


@dataclass(frozen=True)
class Best:
    """What the search found: the winner, its result on all test samples, the finalists' errors, and how many competed."""

    candidate: Candidate
    samples: Tensor
    calls: int
    finalists: dict[str, float]
    competitors: int


def _module(name: str) -> Any:
    import_comfy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


@cache
def model_sampling(kind: str, sigma_min: float, sigma_max: float) -> Any:
    """ComfyUI's own description of a model: what its schedulers ask for their σ."""
    module = _module("comfy.model_sampling")
    parts = {
        "edm": (module.ModelSamplingContinuousEDM, module.EDM),
        "eps": (module.ModelSamplingDiscrete, module.EPS),
        "flow": (module.ModelSamplingDiscreteFlow, module.CONST),
    }
    found = type("ModelSampling", parts[kind], {})()
    if kind == "edm":
        found.set_parameters(sigma_min, sigma_max, 0.5)
    return found


def schedules(model: BenchModel, steps: int) -> dict[str, Array]:
    """Every stock schedule of this many steps by name, float64 (steps + 1,); those that repeat a σ or miss 0 are left out."""
    sampling = model_sampling(model.sampling, *model.sigma_range)
    module = _module("comfy.samplers")
    found: dict[str, Any] = {}
    for name in module.SCHEDULER_HANDLERS:
        try:
            found[name] = module.calculate_sigmas(sampling, name, steps)
        except (ValueError, IndexError, ZeroDivisionError):  # noqa: PERF203  a scheduler that needs more steps
            continue
    if model.coordinate == "flow":
        node = _module("comfy_extras.nodes_optimalsteps").OptimalStepsScheduler
        if steps >= 3:
            found |= {f"OptimalSteps {kind}": node.execute(kind, steps, 1.0)[0] for kind in ("FLUX", "Wan", "Chroma")}
    else:
        node = _module("comfy_extras.nodes_align_your_steps").AlignYourStepsScheduler
        found |= {f"AYS {kind}": node.execute(kind, steps, 1.0)[0] for kind in ("SD1", "SDXL")}
        gits = _module("comfy_extras.nodes_gits")
        if steps >= 2:
            found |= {f"GITS {c:.2f}": gits.GITSScheduler.execute(c, steps, 1.0)[0] for c in gits.NOISE_LEVELS}
    grids = {name: np.asarray(torch.as_tensor(sigmas).double()) for name, sigmas in found.items()}
    return {name: g for name, g in grids.items() if 2 <= len(g) <= steps + 1 and (np.diff(g) < 0).all() and g[-1] == 0}


def candidates(model: BenchModel, evaluations: int, names: Collection[str] = ()) -> list[Candidate]:
    """Every pair of sampler and schedule that fits, or those named; where two are the same table, the first."""
    found: dict[Any, Candidate] = {}
    for name, method in METHODS.items():
        for order in method.convergence:
            steps = steps_within(name, evaluations, order)
            if not steps:
                continue
            for scheduler, sigmas in schedules(model, steps).items():
                label = f"{name}{f'({order})' if len(method.convergence) > 1 else ''} {scheduler}"
                stock = _runs(method.stock, order, model, sigmas)
                if stock is None or (names and label not in names):
                    continue
                try:
                    tableau = build_tableau(name, sigmas, order, model.coordinate)
                except DodeError:  # too close to σ = 1, or another grid that the sampler refuses
                    continue
                if tableau.evaluations <= evaluations:
                    found.setdefault(tableau, Candidate(label, stock, order, tableau, sigmas))
    return list(found.values())


def _runs(stocks: tuple[Stock, ...], order: int, model: BenchModel, sigmas: Array) -> Stock | None:
    for stock in stocks:
        if model.coordinate in stock.coordinates and order in (stock.orders or (order,)) and works(stock, order, sigmas):
            return stock
    return None


def left_out() -> dict[str, str]:
    """Samplers of ComfyUI and k-diffusion that do not take part, with the reason."""
    allow_cpu_only_torch()
    names = set(_module("comfy.samplers").SAMPLER_NAMES)
    names |= {n.removeprefix("sample_") for n in dir(_module("k_diffusion.sampling")) if n.startswith("sample_")}
    reasons = {name: refusal(name) for name in sorted(names)}
    return {name: reason for name, reason in reasons.items() if reason}


def run_table(
    model: BenchModel, guidance: float, tableau: Tableau, noise: Tensor, extra_args: Any, batch: int = 64, guided: bool = False
) -> Tensor:
    """Run a table on unit noise (N, …). ``guided`` gives it the model whose outputs carry the guidance difference."""
    channel = guided and tableau.guided
    denoiser = model.fit_denoiser(guidance, always=True) if channel else model.denoiser(guidance)
    parts = torch.arange(len(noise)).split(batch)
    with torch.no_grad():
        return torch.cat([sample(denoiser, noise[i] * tableau.sigma, tableau, extra_args=extra_args(i)) for i in parts])


class _Counted(StockModel):
    """A denoiser as stock samplers see it, with the model's own description and a count of calls."""

    def __init__(self, model: BenchModel, denoiser: Callable[[Tensor, Tensor], Tensor]):
        sampling = model_sampling(model.sampling, *model.sigma_range)
        patcher = types.SimpleNamespace(get_model_object={"model_sampling": sampling}.__getitem__)
        self.inner_model = types.SimpleNamespace(
            inner_model=types.SimpleNamespace(model_sampling=sampling), model_patcher=patcher
        )
        self.denoiser, self.made = denoiser, 0

    def __call__(self, x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
        self.made += 1
        return self.denoiser(x, sigma)


def run_stock(
    model: BenchModel, guidance: float, candidate: Candidate, noise: Tensor, extra_args: Any, batch: int = 64
) -> tuple[Tensor, int]:
    """Run the real stock function on unit noise (N, …); also how often it called the model."""
    function, options = function_of(candidate.stock), dict(candidate.stock.options(candidate.order))
    # At η = 0 its noise is multiplied by 0; it must not need a real one.
    silent = "noise_sampler" in inspect.signature(function).parameters
    sigmas = torch.tensor(candidate.sigmas, dtype=torch.float32, device=noise.device)
    found, calls = [], 0
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i in torch.arange(len(noise)).split(batch):
            arguments, x = extra_args(i), noise[i] * sigmas[0]
            if silent:
                options["noise_sampler"] = lambda *_, x=x: torch.zeros_like(x)
            denoiser = model.denoiser(guidance)
            counted = _Counted(model, lambda y, s, a=arguments, d=denoiser: d(y, s.expand(len(y)), **a))
            found.append(function(counted, x, sigmas.clone(), extra_args={}, disable=True, **options))
            calls = max(calls, counted.made)
    return torch.cat(found), calls


def _ranked(
    pool: list[Candidate], count: int, model: BenchModel, guidance: float, noise: Tensor, reference: Tensor, extra_args: Any
) -> list[Candidate]:
    errors = [rms(run_table(model, guidance, c.tableau, noise[:count], extra_args), reference[:count]) for c in pool]
    order = np.argsort(np.nan_to_num(np.array(errors), nan=np.inf), kind="stable")
    return [pool[i] for i in order]


def search(
    model: BenchModel,
    guidance: float,
    evaluations: int,
    noise: Tensor,
    reference: Tensor,
    extra_args: Any,
    names: Collection[str] = (),
) -> Best:
    """The best stock sampler on these samples: unit noise (N, …) and where the exact solver takes it.

    With ``names`` the pairs that bear them run at once, without a ranking.

    Raises:
        RuntimeError: a sampler called the model more often than it may.
    """
    pool = candidates(model, evaluations, names)
    kept = pool
    if not names:
        shared = (model, guidance, noise, reference, extra_args)
        kept = _ranked(pool, model.looks[0], *shared)[: max(FINALISTS, round(KEPT * len(pool)))]
        kept = _ranked(kept, model.looks[1], *shared)[:FINALISTS]
    results = [run_stock(model, guidance, candidate, noise, extra_args) for candidate in kept]
    errors = [rms(samples, reference) for samples, _ in results]
    winner = int(np.argmin(np.nan_to_num(errors, nan=np.inf)))
    if max(made for _, made in results) > evaluations:
        raise RuntimeError(f"A stock sampler called the model more than {evaluations} times.")
    named = {c.name: e for c, e in zip(kept, errors, strict=True)}
    return Best(kept[winner], *results[winner], named, len(pool))
