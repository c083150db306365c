"""What a distilled table does on a model that it has never seen, with no fit at all, against one stock pair for all models.

    COMFYUI_DIR=… python -m benchmarks.quality_library --report benchmarks/quality_default/quality.json --output OUT

Tables are those of a report, fitted at the same guidance scale and number of evaluations on other models of the same kind. Each
model in turn is left out: the table, and the pair of solver and schedule, that are best on the others (geometric mean of
errors) run on its test noise. Below 1 the table is the better one.
"""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.models import MODELS
from benchmarks.quality import write
from benchmarks.quality_cells import Plan, Trial, restored, run_parameters, score, torch_settings, trial
from benchmarks.quality_report import geometric_mean, table
from benchmarks.stock_search import candidates, run_stock
from dode.correction import Parameters

SOLVERS = ("ipndm(2)", "ipndm(3)", "ipndm_v(3)", "dpmpp_2m", "deis(3)", "gradient_estimation", "uni_pc_bh2", "res_multistep")
SCHEDULES = ("karras", "exponential", "simple", "beta", "AYS SD1", "AYS SDXL", "GITS 1.10", "GITS 1.20")
Errors = dict[str, dict[str, float]]  # by table or pair, and by model


def tables(cells: list[dict[str, Any]], guidance: float, evaluations: int, models: list[str]) -> dict[str, Parameters]:
    """The report's samplers for a guidance scale and number of evaluations, by the model that they were fitted on."""
    found: dict[str, Parameters] = {}
    for cell in cells:
        if (cell["guidance"], cell["evaluations"]) == (guidance, evaluations) and cell["model"] in models:
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


def best_without(errors: Errors, model: str, models: list[str], own: bool) -> str:
    """What is best on the other models; where ``own``, a table of the model itself does not count, and no table counts where
    it was fitted."""
    others = {
        name: [error for other, error in by_model.items() if other != model and not (own and other == name)]
        for name, by_model in errors.items()
        if not (own and name == model) and len(by_model) == len(models)
    }
    return min(others, key=lambda name: geometric_mean(others[name]))


def compared(trials: Mapping[str, Trial], found: dict[str, Parameters], evaluations: int) -> list[dict[str, Any]]:
    """A row for each model."""
    models = list(found)
    of_tables: Errors = {name: {} for name in models}
    of_pairs: Errors = {}
    for model in models:
        for name, parameters in found.items():
            samples = run_parameters(trials[model], parameters, evaluations)
            error = score(samples, trials[model].reference)["error"]
            of_tables[name][model] = error if np.isfinite(error) else 1e6
        for name, error in pairs(trials[model], evaluations).items():
            of_pairs.setdefault(name, {})[model] = error
    rows = []
    for model in models:
        name, pair = best_without(of_tables, model, models, True), best_without(of_pairs, model, models, False)
        errors = of_tables[name][model], of_pairs[pair][model], of_tables[model][model]
        rows.append({"model": model, "table of": name, "its error": errors[0], "pair": pair, "pair's error": errors[1]})
        rows[-1] |= {"ratio": errors[0] / errors[1], "fitted here": errors[2]}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path, required=True)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["eps-prompts", "photos", "sparse"])
    parser.add_argument("--guidance", nargs="+", type=float, default=[1.0, 3.0])
    parser.add_argument("--evaluations", nargs="+", type=int, default=[4, 6, 8])
    parser.add_argument("--test-samples", type=int, default=128)
    parser.add_argument("--references", type=Path, metavar="DIR", help="keep converged solutions there, and use those that are")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--output", type=Path, default=Path("benchmark_output"))
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    command, began = shlex.join(["python", "-m", "benchmarks.quality_library", *sys.argv[1:]]), time.time()
    cells = json.loads(options.report.read_text(encoding="utf-8"))["cells"]
    rows: list[dict[str, Any]] = []
    for guidance in options.guidance:
        plan = Plan((), (guidance,), (), 0, options.test_samples, kept=options.references)
        trials = {name: trial(MODELS[name](torch.device("cpu")), guidance, plan) for name in options.models}
        for evaluations in options.evaluations:
            found = tables(cells, guidance, evaluations, options.models)
            for row in compared(trials, found, evaluations):
                rows.append({"guidance": guidance, "NFE": evaluations, **row})
                print(rows[-1], flush=True)
    content = {"command": command, "machine": torch_settings("cpu"), "seconds": time.time() - began, "rows": rows}
    heads = list(rows[0])
    body = [[f"{v:.4f}" if isinstance(v, float) and k != "guidance" else f"{v}" for k, v in row.items()] for row in rows]
    said = [
        "# Tables on models that they have not seen",
        f"    {command}",
        (__doc__ or "").partition("\n\n")[2].partition("\n\n")[2].strip(),
        f"{content['machine']}; {options.test_samples} samples. The geometric mean of the ratios is "
        f"{geometric_mean(row['ratio'] for row in rows):.2f}, {sum(row['ratio'] < 1 for row in rows)} of {len(rows)} below 1.",
        table(heads, body),
    ]
    write(content, "\n\n".join(said) + "\n", options.output, "library")


if __name__ == "__main__":
    main()
