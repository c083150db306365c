"""One cell of the benchmark of quality: a model at a guidance scale and a number of evaluations."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.models.bench_models import ALL_CLASSES, BenchModel
from benchmarks.quality.stock_search import Best, run_table, search
from dode.correction import Parameters
from dode.fit.held_out import rms
from dode.methods import build_tableau

FIT_SEED, TEST_SEED, RESAMPLES = 0, 1000, 2000
USUAL = 0  # in place of a number of samples to fit on: as many as the fit takes by itself


@dataclass(frozen=True)
class Plan:
    """What a run measures: the cells, the modes of the fit, numbers of samples, the prompts of each side (the model's if none
    are named).

    ``rotation`` holds groups of classes, for models that know no other prompts. Each is left out of one fit, and it is the
    samplers of that fit that are tested on it.
    """

    evaluations: tuple[int, ...]
    guidances: tuple[float, ...]
    modes: tuple[str, ...]
    fit_samples: int
    test_samples: int
    fit_prompts: tuple[int, ...] = ()
    test_prompts: tuple[int, ...] = ()
    rotation: tuple[tuple[int, ...], ...] = ()
    fit_seed: int = FIT_SEED
    test_seed: int = TEST_SEED
    beyond: tuple[int, ...] = ()  # more evaluations for the best stock samplers alone
    before: Mapping[tuple[str, float, int], list[dict[str, Any]]] = field(default_factory=dict)  # samplers of an earlier fit
    kept: Path | None = None  # a folder for references that other runs use too
    shortlist: Mapping[tuple[str, float, int], dict[str, Any]] = field(default_factory=dict)  # finalists known already

    def finalists(self, model: str, guidance: float, evaluations: int) -> tuple[str, ...]:
        """The finalists of an earlier stock search for this cell, if there was one."""
        return tuple(self.shortlist.get((model, guidance, evaluations), {}).get("finalists", ()))

    def fit_of(self, mode: str, guidance: float, evaluations: int, prompts: tuple[int, ...]) -> "Plan":
        """The plan of one fit."""
        from dode.fit.all_numbers import MODES
        from dode.fit.plan import usual_samples

        samples = self.fit_samples or usual_samples(MODES[mode], evaluations, guided=guidance != 1)
        return replace(self, fit_samples=samples, fit_prompts=prompts)

    def prompts(self, model: BenchModel) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The prompts of the fit's samples and those of the test's."""
        return self.fit_prompts or model.fit_prompts, self.test_prompts or model.test_prompts

    def turns(self, model: BenchModel) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """For each fit the prompts that its samplers are tested on, and those that it is made on."""
        fitted, tested = self.prompts(model)
        if self.rotation and not model.new_prompts:
            return [(group, tuple(p for p in fitted if p not in group)) for group in self.rotation]
        return [(tested, fitted)]


def class_of(label: Any) -> Any:
    """The class of a prompt, or of each of a tensor of them."""
    return label % len(ALL_CLASSES)


@dataclass(frozen=True)
class Trial:
    """Test noise, where the exact solver takes it, and how far the same solver with half the steps lands from there."""

    model: BenchModel
    guidance: float
    noise: Tensor
    extra_args: Any
    reference: Tensor
    reference_error: float


def trial(model: BenchModel, guidance: float, plan: Plan) -> Trial:
    """Draw the test noise and solve the ODE on it, by iPNDM on a fine grid and on one half as fine."""
    noise = model.noise(plan.test_samples, plan.test_seed)
    labels = plan.prompts(model)[1]
    extra = model.extra_args(labels)
    name = f"{model.name}_{guidance:g}_{plan.test_samples}_{plan.test_seed}_{labels[0]}_{len(labels)}.pt"
    file = plan.kept / name if plan.kept else None
    if file and file.exists():
        fine, error = torch.load(file, weights_only=True)
        return Trial(model, guidance, noise, extra, fine.to(noise.device), float(error))

    def solved(steps: int) -> Tensor:
        grid = model.reference_grid(2 * steps)
        return run_table(model, guidance, build_tableau("ipndm", grid, 4), noise, extra)

    fine = solved(model.reference_steps)
    error = rms(fine, solved(model.reference_steps // 2))
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save((fine.cpu(), torch.tensor(error)), file)
    return Trial(model, guidance, noise, extra, fine, error)


def fit(
    model: BenchModel,
    guidance: float,
    plan: Plan,
    mode: Any,
    *,
    evaluations: Sequence[int] | None = None,
    denoiser: Callable[..., Any] | None = None,
    **more: Any,
) -> list[Any]:
    """Distill a sampler for each number of evaluations, in one call of ``distill_students``; ``mode`` is what it takes."""
    from dode.fit.all_numbers import distill_students

    more.setdefault("micro_batch", 64)
    extra_args = model.extra_args(plan.prompts(model)[0])
    if plan.rotation or model.new_prompts:  # it is other prompts that count, so prompts judge
        more.setdefault("groups", extra_args(torch.arange(plan.fit_samples))["labels"].tolist())
    return distill_students(
        denoiser or model.fit_denoiser(guidance),
        model.noise(plan.fit_samples, plan.fit_seed),
        evaluations=tuple(evaluations or plan.evaluations),
        sigma_range=model.sigma_range,
        coordinate=model.coordinate,
        mode=mode,
        extra_args=extra_args,
        device=model.device,
        **more,
    )


def run_parameters(on: Trial, parameters: Parameters, evaluations: int) -> Tensor:
    """Sample the trial's noise with a distilled sampler.

    Raises:
        RuntimeError: it needs more evaluations than it may have.
    """
    tableau = parameters.tableau()
    if tableau.evaluations > evaluations:
        raise RuntimeError(f"A distilled sampler needs {tableau.evaluations} evaluations where {evaluations} are allowed.")
    return run_table(on.model, on.guidance, tableau, on.noise, on.extra_args, guided=True)


def squares(samples: Tensor, reference: Tensor) -> np.ndarray:
    """Mean squared distance of each sample, (N,)."""
    return (samples.double() - reference.double()).square().flatten(1).mean(1).cpu().numpy()


def ratio_interval(mine: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """A 95 % interval of the ratio of RMS errors: percentiles of a bootstrap that draws samples in pairs."""
    drawn = np.random.default_rng(0).integers(len(mine), size=(RESAMPLES, len(mine)))
    low, high = np.percentile(np.sqrt(mine[drawn].mean(1) / others[drawn].mean(1)), [2.5, 97.5])
    return float(low), float(high)


def score(samples: Tensor, reference: Tensor, best: Tensor | None = None) -> dict[str, Any]:
    """RMS error, PSNR (data in [-1, 1]) and the median over samples; with ``best``, the ratio to its error and its interval."""
    mine = squares(samples, reference)
    error = float(np.sqrt(mine.mean()))
    found: dict[str, Any] = {"error": error, "psnr": float(20 * np.log10(2 / error)), "median": float(np.median(np.sqrt(mine)))}
    if best is not None:
        others = squares(best, reference)
        found |= {"ratio": error / float(np.sqrt(others.mean())), "interval": ratio_interval(mine, others)}
    return found


def described(parameters: Parameters) -> dict[str, Any]:
    """Distilled parameters as JSON has them."""
    guidance, told = getattr(parameters, "guidance", None), getattr(parameters, "model_sigmas", None)
    return {
        "method": parameters.method,
        "order": parameters.order,
        "directions": parameters.directions,
        "coordinate": parameters.coordinate,
        "sigmas": list(parameters.sigmas),
        "values": np.asarray(parameters.values).tolist(),
        **({} if guidance is None else {"guidance": np.asarray(guidance).tolist()}),
        **({} if told is None else {"model_sigmas": list(told)}),
    }


def restored(record: dict[str, Any]) -> Parameters:
    """The inverse of ``described``."""
    arrays = ("values", "guidance")
    fields: dict[str, Any] = {k: np.array(v) if k in arrays else v for k, v in record.items()}
    fields |= {k: tuple(v) for k, v in fields.items() if isinstance(v, list)}
    return Parameters(**fields)


def fit_record(report: Any) -> dict[str, Any]:
    """What the fit itself measured, on its own held-out samples and against its own teacher."""
    names = ("error_base", "error_distilled", "teacher_error", "model_evaluations")
    return {name: getattr(report, name) for name in names}


def stock_record(best: Best, reference: Tensor) -> dict[str, Any]:
    """The search's outcome as JSON has it."""
    return {
        "name": best.candidate.name,
        **score(best.samples, reference),
        "evaluations": best.calls,
        "competitors": best.competitors,
        "finalists": best.finalists,
    }


def run_each(on: Trial, plan: Plan, found: Sequence[Parameters], evaluations: int) -> Tensor:
    """Sample the trial's noise with the distilled samplers of the plan's turns, each on the classes it is tested on."""
    numbers = torch.arange(len(on.noise))
    owners, ends = on.extra_args(numbers)["labels"].cpu(), torch.empty_like(on.reference)
    for (tested, _), parameters in zip(plan.turns(on.model), found, strict=True):
        mine = numbers[torch.isin(owners, torch.tensor(tested))]
        part = replace(on, noise=on.noise[mine], extra_args=lambda samples, mine=mine: on.extra_args(mine[samples.cpu()]))
        ends[mine] = run_parameters(part, parameters, evaluations)
    return ends


def cells(model: BenchModel, guidance: float, plan: Plan, say: Callable[[str], None] = print) -> list[dict[str, Any]]:
    """All cells of a model at a guidance scale."""
    started = time.time()
    on = trial(model, guidance, plan)
    say(f"{model.name}, guidance {guidance:g}: reference to {on.reference_error:.2g}, {time.time() - started:.0f} s")
    fits: dict[str, list[list[Any]]] = {}
    for mode in plan.modes:
        began = time.time()
        # A call for each, as most people fit: of several in one call the further ones make do with less.
        fits[mode] = [
            [fit(model, guidance, plan.fit_of(mode, guidance, n, fitted), mode, evaluations=(n,))[0] for n in plan.evaluations]
            for _, fitted in plan.turns(model)
        ]
        say(f"  fit {mode}: {time.time() - began:.0f} s")
    found = []
    for number, evaluations in enumerate(plan.evaluations):
        began = time.time()
        known = plan.shortlist.get((model.name, guidance, evaluations), {})
        names = plan.finalists(model.name, guidance, evaluations)
        best = search(model, guidance, evaluations, on.noise, on.reference, on.extra_args, names)
        cell: dict[str, Any] = {
            "model": model.name,
            "guidance": guidance,
            "evaluations": evaluations,
            "reference_error": on.reference_error,
            "stock": {**stock_record(best, on.reference), **{k: v for k, v in known.items() if k == "competitors"}},
            "distilled": {},
        }
        for mode, turns in fits.items():
            results = [results[number] for results in turns]
            samples = run_each(on, plan, [result.parameters for result in results], evaluations)
            records = [{"parameters": described(result.parameters), "fit": fit_record(result.report)} for result in results]
            cell["distilled"][mode] = {
                **score(samples, on.reference, best.samples),
                **({"turns": records} if len(records) > 1 else records[0]),
            }
        earlier = plan.before.get((model.name, guidance, evaluations))
        if earlier:
            samples = run_each(on, plan, [restored(record["parameters"]) for record in earlier], evaluations)
            spent = np.mean([sum(record["fit"]["model_evaluations"].values()) for record in earlier])
            cell["distilled"]["before"] = {**score(samples, on.reference, best.samples), "evaluations_spent": float(spent)}
        found.append(cell)
        ratios = ", ".join(f"{mode} {d['error']:.4f} ({d['ratio']:.2f})" for mode, d in cell["distilled"].items())
        stock = cell["stock"]
        say(f"  {evaluations:2} NFE: stock {stock['error']:.4f} {stock['name']}; {ratios}; {time.time() - began:.0f} s")
    names = tuple(found[-1]["stock"]["finalists"])
    longer = {n: search(model, guidance, n, on.noise, on.reference, on.extra_args, names) for n in plan.beyond}
    found[-1]["stock_beyond"] = {str(n): min(best.finalists.values()) for n, best in longer.items()}
    return found
