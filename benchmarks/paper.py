"""The paper's table: each of its five solvers against its D- version, at a list of evaluations.

    python -m benchmarks.paper --models eps-prompts --guidance 1 --evaluations 5 6 8 10 --output benchmarks/quality

Errors are RMS distances to the converged solution on noise (and prompts) that no fit has seen. Every solver runs on Karras's
schedule, for flow matching on the uniform one, with as many steps as fit the evaluations; teachers are the paper's, with 10
times the steps. "D-" is the published fit: one λ a row in closed form, without guard. "guarded" keeps a correction only as far
as the held-out samples gain, as the package does unless told otherwise. Of iPNDM and DEIS also with differences of raw outputs
in place of the combined slopes.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.models import MODELS, BenchModel
from benchmarks.quality import write
from benchmarks.quality_cells import Plan, score, torch_settings, trial
from benchmarks.quality_report import table
from benchmarks.stock_search import run_table
from dode.distill import distill
from dode.methods import build_tableau, steps_within
from dode.schedules import usual_schedule
from dode.tableau import Directions


class Family(NamedTuple):
    """A solver of the paper, and what successive differences of it are of."""

    name: str
    method: str
    order: int | None
    directions: Directions


FAMILIES = (
    Family("DDIM, data", "ddim", None, "data"),
    Family("DDIM, noise", "ddim", None, "noise"),
    Family("iPNDM", "ipndm", 4, "slopes"),
    Family("iPNDM, raw differences", "ipndm", 4, "noise"),
    Family("DPM-Solver-2", "dpm_solver_2", None, "noise"),
    Family("DPM-Solver-3", "dpm_solver_3", None, "noise"),
    Family("DEIS, tAB2", "deis", 3, "slopes"),
    Family("DEIS, tAB2, raw differences", "deis", 3, "noise"),
    Family("EDM", "edm", None, "data"),
)
Row = dict[str, Any]


def rows(model: BenchModel, guidance: float, plan: Plan) -> Iterator[Row]:
    """A row for each family and number of evaluations."""
    on = trial(model, guidance, plan)
    fitted, noise = model.extra_args(plan.prompts(model)[0]), model.noise(plan.fit_samples, plan.fit_seed)
    for family in FAMILIES:
        for evaluations in plan.evaluations:
            steps = steps_within(family.method, evaluations, family.order)
            if not steps:
                continue
            grid = usual_schedule(model.coordinate, steps, *model.sigma_range)

            def error(tableau: Any) -> float:
                return score(run_table(model, guidance, tableau, on.noise, on.extra_args), on.reference)["error"]

            base = build_tableau(family.method, grid, family.order, model.coordinate)
            row: Row = {"model": model.name, "guidance": guidance, "solver": family.name, "evaluations": evaluations}
            row |= {"used": base.evaluations, "plain": error(base)}
            for name, guard in (("D-", False), ("guarded", True)):
                found = distill(
                    model.denoiser(guidance),
                    noise * float(grid[0]),
                    grid,
                    method=family.method,
                    order=family.order,
                    coordinate=model.coordinate,
                    directions=family.directions,
                    guard=guard,
                    micro_batch=64,
                    extra_args=fitted,
                    sigma_min=model.sigma_min,
                )
                row[name] = error(found.parameters.tableau())
            yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["embedded", "eps-prompts", "flow-prompts"])
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--evaluations", nargs="+", type=int, default=[5, 6, 8, 10, 15, 20, 25, 50])
    parser.add_argument("--fit-samples", type=int, default=100, help="as many as the paper's batch")
    parser.add_argument("--test-samples", type=int, default=128)
    parser.add_argument("--references", type=Path, metavar="DIR", help="keep converged solutions there, and use those that are")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--output", type=Path, default=Path("benchmark_output"))
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    plan = Plan(
        tuple(options.evaluations), (options.guidance,), (), options.fit_samples, options.test_samples, kept=options.references
    )
    command, began, found = shlex.join(["python", "-m", "benchmarks.paper", *sys.argv[1:]]), time.time(), list[Row]()
    for name in options.models:
        for row in rows(MODELS[name](torch.device("cpu")), options.guidance, plan):
            found.append(row)
            print(" ".join(f"{value:.4f}" if isinstance(value, float) else str(value) for value in row.values()), flush=True)
    content = {"command": command, "machine": torch_settings("cpu"), "seconds": time.time() - began, "rows": found}
    body = [
        [*(str(row[key]) for key in ("model", "solver", "evaluations", "used")), *(f"{row[key]:.4f}" for key in _COLUMNS)]
        for row in found
    ]
    said = [
        "# The paper's solvers and their D- versions",
        f"    {command}",
        f"{content['machine']}; {options.fit_samples} samples to fit on, {options.test_samples} to test on; guidance "
        f"{options.guidance:g}. Errors are RMS distances to the converged solution; see the command's `--help`.",
        table(["model", "solver", "evaluations", "used", *_COLUMNS], body),
    ]
    write(content, "\n\n".join(said) + "\n", options.output, "paper")


_COLUMNS = ("plain", "D-", "guarded")

if __name__ == "__main__":
    main()
