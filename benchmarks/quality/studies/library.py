"""What a distilled table does on a model that it has never seen, with no fit at all, against one stock pair for all models.

    COMFYUI_DIR=… python -m benchmarks.quality.studies.library --output OUT

Each model in turn is left out. A sampler is fitted on the other models together (a further guidance scale goes on from the
first one's, as in Distill Sampler), and of the pairs of solver and schedule the one that is best on them (geometric mean of
errors) is taken; both run on the left-out model's test noise. Below 1 the table is the better one. "here": the sampler of the
default fit on the model itself, where the report has one. Samplers that are fitted on all of the models are written beside the
report: those for guidance scales and numbers of evaluations where the table lost on no model that was left out, which is what
the pack ships.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from benchmarks.models.bench_models import MODELS, BenchModel, joined
from benchmarks.quality.cells import Plan, Trial, fit, restored, run_parameters, score, trial
from benchmarks.quality.report import geometric_mean, table
from benchmarks.quality.stock_search import candidates, run_stock
from benchmarks.reports import RESULTS, measured, parsed, parser_of, write
from dode.correction import Parameters
from dode.files.parameter_file import Entry, ModelInfo, ParameterFile, save_parameters
from dode.report import Distillation

SOLVERS = ("ipndm(2)", "ipndm(3)", "ipndm_v(3)", "dpmpp_2m", "deis(3)", "gradient_estimation", "uni_pc_bh2", "res_multistep")
SCHEDULES = ("karras", "exponential", "simple", "beta", "AYS SD1", "AYS SDXL", "GITS 1.10", "GITS 1.20")
Errors = dict[str, dict[str, float]]  # by pair, and by model
Fits = Mapping[tuple[tuple[str, ...], int], list[Distillation]]  # by models and evaluations: one for each guidance scale
FILE = "any_eps_model.safetensors"
LOST = 1.01  # a ratio that is no tie any more
REPORT = RESULTS / "quality_default" / "quality.json"


def fitted_there(cells: list[dict[str, Any]], guidance: float, evaluations: int) -> dict[str, Parameters]:
    """The samplers of a report for a guidance scale and number of evaluations, by the model that they were fitted on."""
    found: dict[str, Parameters] = {}
    for cell in cells:
        if (cell["guidance"], cell["evaluations"]) == (guidance, evaluations):
            fitted = cell["distilled"]["balanced"]
            found[cell["model"]] = restored((fitted.get("turns") or [fitted])[0]["parameters"])
    return found


def pairs(on: Trial, evaluations: int) -> dict[str, float]:
    """Errors of the stock pairs on a model, by name."""
    names = [f"{solver} {schedule}" for solver in SOLVERS for schedule in SCHEDULES]
    found: dict[str, float] = {}
    for candidate in candidates(on.model, evaluations, names):
        samples, _ = run_stock(on.model, on.guidance, candidate, on.noise, on.extra_args)
        found[candidate.name] = score(samples, on.reference)["error"]
    return found


def best_without(errors: Errors, model: str) -> str:
    """The pair that is best on the other models."""
    return min(errors, key=lambda name: geometric_mean(error for other, error in errors[name].items() if other != model))


def error_of(on: Trial, parameters: Parameters, evaluations: int) -> float:
    return float(score(run_parameters(on, parameters, evaluations), on.reference)["error"])


def generic(models: Sequence[BenchModel], guidances: Sequence[float], evaluations: int, samples: int) -> list[Distillation]:
    """Samplers fitted on several models together, with so many samples of each, one for each guidance scale. Each goes on from
    the one before, so that those between them can be interpolated."""
    plan, found = Plan((), (), (), samples * len(models), 0), list[Distillation]()
    for guidance in guidances:
        continued = [found[-1].parameters] if found else None
        found += fit(joined(models), guidance, plan, "balanced", evaluations=(evaluations,), continued=continued)
    return found


def errors_of_pairs(options: argparse.Namespace, guidance: float, evaluations: int) -> Errors:
    """Errors of the stock pairs on all models."""
    found = Errors()
    for name in options.models:
        for pair, error in pairs(trial_of(options, name, guidance), evaluations).items():
            found.setdefault(pair, {})[name] = error
    return found


def trial_of(options: argparse.Namespace, name: str, guidance: float) -> Trial:
    plan = Plan((), (guidance,), (), 0, options.test_samples, kept=options.references)
    return trial(MODELS[name](torch.device("cpu")), guidance, plan)


def fitted_on(options: argparse.Namespace, names: tuple[str, ...], evaluations: int) -> list[Distillation]:
    models = [MODELS[name](torch.device("cpu")) for name in names]
    return generic(models, options.guidance, evaluations, options.fit_samples)


def rows(options: argparse.Namespace, fits: Fits, of_pairs: Mapping[tuple[float, int], Errors]) -> Iterator[dict[str, Any]]:
    """A row for each guidance scale, number of evaluations and model."""
    cells = json.loads(options.report.read_text(encoding="utf-8"))["cells"]
    for (guidance, evaluations), errors in of_pairs.items():
        here, number = fitted_there(cells, guidance, evaluations), options.guidance.index(guidance)
        for model in options.models:
            on, pair = trial_of(options, model, guidance), best_without(errors, model)
            error = error_of(on, fits[others(options, model), evaluations][number].parameters, evaluations)
            row = {"guidance": guidance, "NFE": evaluations, "model": model, "table's error": error, "pair": pair}
            row |= {"pair's error": errors[pair][model], "ratio": error / errors[pair][model]}
            yield row | {"here": error_of(on, here[model], evaluations) if model in here else None}


def others(options: argparse.Namespace, model: str) -> tuple[str, ...]:
    return tuple(name for name in options.models if name != model)


def wins(found: Sequence[Mapping[str, Any]], guidance: float | None, evaluations: int) -> bool:
    """Whether a table of other models lost on none of the models, and is better on average."""
    ratios = [row["ratio"] for row in found if (row["guidance"], row["NFE"]) == (guidance, evaluations)]
    return max(ratios) <= LOST and geometric_mean(ratios) < 1


def generic_file(options: argparse.Namespace, fits: Fits, rows: Sequence[Mapping[str, Any]]) -> ParameterFile:
    """The samplers that are fitted on all the models, where such tables win."""
    names = tuple(options.models)
    about = ModelInfo(prediction=MODELS[names[0]](torch.device("cpu")).sampling)
    entries = [
        Entry(found.parameters, about, guidance, found.report, {"models": names})
        for evaluations in options.evaluations
        for guidance, found in zip(options.guidance, fits[names, evaluations], strict=True)
        if wins(rows, guidance, evaluations)
    ]
    notes = f"For models of noise prediction that have no file of their own; fitted on {', '.join(names)} together."
    return ParameterFile(tuple(entries), "D-ODE", "CC0-1.0", notes)


def main() -> None:
    parser = parser_of(__doc__)
    parser.set_defaults(threads=1)
    parser.add_argument(
        "--report", type=Path, default=REPORT, help="with the samplers that were fitted on the models themselves"
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["eps-prompts", "photos", "sparse"])
    parser.add_argument("--guidance", nargs="+", type=float, default=[1.0, 3.0, 6.0])
    parser.add_argument("--evaluations", nargs="+", type=int, default=[4, 6, 8])
    parser.add_argument("--fit-samples", type=int, default=48, help="of each model")
    parser.add_argument("--test-samples", type=int, default=128)
    parser.add_argument("--processes", type=int, default=1)
    options = parsed(parser, "benchmarks.quality.studies.library")
    subsets = [tuple(options.models), *(others(options, model) for model in options.models)]
    with ProcessPoolExecutor(options.processes, initializer=torch.set_num_threads, initargs=(options.threads,)) as pool:
        begun = {
            (names, n): pool.submit(fitted_on, options, names, n)
            for names in subsets
            for n in sorted(options.evaluations)[::-1]
        }
        compared = {(g, n): pool.submit(errors_of_pairs, options, g, n) for g in options.guidance for n in options.evaluations}
        of_pairs = {key: future.result() for key, future in compared.items()}
        fits = {key: future.result() for key, future in begun.items()}
    found = []
    for row in rows(options, fits, of_pairs):
        found.append(row)
        print(row, flush=True)
    save_parameters(options.output / FILE, generic_file(options, fits, found), overwrite=True)
    content = measured(options, found)
    heads = list(found[0])
    body = [[f"{v:.4f}" if isinstance(v, float) and k != "guidance" else f"{v}" for k, v in row.items()] for row in found]
    ratios = [row["ratio"] for row in found]
    said = [
        "# Tables on models that they have not seen",
        f"    {options.command}",
        (__doc__ or "").partition("\n\n")[2].partition("\n\n")[2].strip(),
        f"{content['machine']}; {options.test_samples} samples. The geometric mean of the ratios is "
        f"{geometric_mean(ratios):.2f}, {sum(ratio < 1 for ratio in ratios)} of {len(ratios)} below 1.",
        table(heads, body),
    ]
    write(content, "\n\n".join(said) + "\n", options.output, "library")


if __name__ == "__main__":
    main()
