"""What a distilled table does on a model that it has never seen, with no fit at all, against one stock pair for all models.

    COMFYUI_DIR=… python -m benchmarks.quality.studies.library --output OUT

Each model in turn is left out. A sampler is fitted on the other models together (a further guidance scale goes on from the
first one's, as in Distill Sampler), and of the pairs of solver and schedule the one that is best on them (geometric mean of
errors) is taken; both run on the left-out model's test noise. Below 1 the table is
the better one. "here": the sampler of the default fit on the model itself, where the report has one.
"""

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
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


def compared(options: argparse.Namespace, evaluations: int) -> list[dict[str, Any]]:
    """A row for each guidance scale and model."""
    guidances, rows = options.guidance, []
    models = {name: MODELS[name](torch.device("cpu")) for name in options.models}
    left_out = {
        name: generic([models[other] for other in models if other != name], guidances, evaluations, options.fit_samples)
        for name in models
    }
    cells = json.loads(options.report.read_text(encoding="utf-8"))["cells"]
    for number, guidance in enumerate(guidances):
        plan = Plan((), (guidance,), (), 0, options.test_samples, kept=options.references)
        trials = {name: trial(model, guidance, plan) for name, model in models.items()}
        here, of_pairs = fitted_there(cells, guidance, evaluations), Errors()
        for model, on in trials.items():
            for name, error in pairs(on, evaluations).items():
                of_pairs.setdefault(name, {})[model] = error
        for model, on in trials.items():
            error, pair = error_of(on, left_out[model][number].parameters, evaluations), best_without(of_pairs, model)
            row = {"guidance": guidance, "NFE": evaluations, "model": model, "table's error": error, "pair": pair}
            row |= {"pair's error": of_pairs[pair][model], "ratio": error / of_pairs[pair][model]}
            rows.append(row | {"here": error_of(on, here[model], evaluations) if model in here else None})
            print(rows[-1], flush=True)
    return rows


def write_generic(options: argparse.Namespace) -> None:
    """The file of samplers fitted on all the models."""
    models = [MODELS[name](torch.device("cpu")) for name in options.models]
    fitted = {n: generic(models, options.guidance, n, options.fit_samples) for n in options.evaluations}
    entries = [
        Entry(found.parameters, ModelInfo(prediction=models[0].sampling), guidance, found.report, {"models": options.models})
        for n in options.evaluations
        for guidance, found in zip(options.guidance, fitted[n], strict=True)
    ]
    notes = f"For models of noise prediction that have no file of their own; fitted on {', '.join(options.models)} together."
    save_parameters(options.write, ParameterFile(tuple(entries), "D-ODE", "CC0-1.0", notes), overwrite=True)
    print(options.write)


def main() -> None:
    parser = parser_of(__doc__)
    parser.set_defaults(threads=1)
    parser.add_argument(
        "--report", type=Path, default=REPORT, help="with the samplers that were fitted on the models themselves"
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["eps-prompts", "photos", "sparse"])
    parser.add_argument("--guidance", nargs="+", type=float, default=[1.0, 3.0, 6.0])
    parser.add_argument("--evaluations", nargs="+", type=int, default=[4, 6, 8])
    parser.add_argument("--fit-samples", type=int, default=64, help="of each model")
    parser.add_argument("--test-samples", type=int, default=128)
    parser.add_argument("--write", type=Path, metavar="FILE", help="no measurement: fit on all the models, and write the file")
    parser.add_argument("--processes", type=int, default=1)
    options = parsed(parser, "benchmarks.quality.studies.library")
    if options.write:
        write_generic(options)
        return
    with ProcessPoolExecutor(options.processes, initializer=torch.set_num_threads, initargs=(options.threads,)) as pool:
        rows = [row for found in pool.map(partial(compared, options), options.evaluations) for row in found]
    rows.sort(key=lambda row: (row["guidance"], row["NFE"]))
    content = measured(options, rows)
    heads = list(rows[0])
    body = [[f"{v:.4f}" if isinstance(v, float) and k != "guidance" else f"{v}" for k, v in row.items()] for row in rows]
    said = [
        "# Tables on models that they have not seen",
        f"    {options.command}",
        (__doc__ or "").partition("\n\n")[2].partition("\n\n")[2].strip(),
        f"{content['machine']}; {options.test_samples} samples. The geometric mean of the ratios is "
        f"{geometric_mean(row['ratio'] for row in rows):.2f}, {sum(row['ratio'] < 1 for row in rows)} of {len(rows)} below 1.",
        table(heads, body),
    ]
    write(content, "\n\n".join(said) + "\n", options.output, "library")


if __name__ == "__main__":
    main()
