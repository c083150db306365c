"""What a fit spends and what it gives: error over guided evaluations, for our fits and for published peers of them."""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.models.bench_models import MODELS, BenchModel
from benchmarks.peers.bespoke import bespoke, multistep_starts
from benchmarks.peers.differentiable import Spending
from benchmarks.peers.published import Fitted, dc_solver, gits, ld3, teacher_ends
from benchmarks.quality.cells import Plan, Trial, fit, score, stock_record, trial
from benchmarks.quality.plots import error_over_spending
from benchmarks.quality.report import table
from benchmarks.quality.stock_search import run_table, search
from benchmarks.reports import RESULTS, torch_settings
from dode.errors import DodeError
from dode.fit.distill import distill
from dode.fit.starts import usual_grids
from dode.methods import build_tableau
from dode.schedules import usual_schedule
from dode.tableau import Array, Tableau

REFERENCE_STEPS = 100  # half of what the converged solution takes here: far nearer to it than any sampler in question
SOLVERS = (("ipndm", 2), ("ipndm", 3), ("dpmpp_2m", 2), ("deis", 3))
BEFORE = RESULTS / "quality" / "budget_before.json"

Row = dict[str, Any]
Save = Callable[[dict[str, Any], str], None]


@dataclass(frozen=True)
class Cell:
    """One cell of the study: test noise, where to end, and of a fit the evaluations that it may use in a sample."""

    on: Trial
    evaluations: int
    plan: Plan

    def spending(self, samples: int) -> Spending:
        model = self.on.model
        noise = model.noise(samples, self.plan.fit_seed)
        return Spending(model, self.on.guidance, noise, model.extra_args(self.plan.prompts(model)[0]))

    def grids(self) -> list[Array]:
        model = self.on.model
        return usual_grids(self.evaluations, *model.sigma_range, model.coordinate == "flow")


def tables(cell: Cell) -> list[Tableau]:
    """Multistep solvers on usual schedules, one evaluation a row."""
    found = [_built(cell, name, order, grid) for grid in cell.grids() for name, order in SOLVERS]
    return [tableau for tableau in found if tableau is not None]


def _built(cell: Cell, name: str, order: int | None, grid: Array) -> Tableau | None:
    try:
        return build_tableau(name, grid, order, cell.on.model.coordinate)
    except DodeError:
        return None


def _gits(cell: Cell, samples: int, **more: Any) -> Fitted:
    return gits(cell.spending(samples), cell.evaluations, **more)


def _dc_solver(cell: Cell, samples: int, **more: Any) -> Fitted:
    found = [_built(cell, name, None, grid) for grid in cell.grids() for name in ("uni_pc_bh2", "dpmpp_2m")]
    return dc_solver(cell.spending(samples), [tableau for tableau in found if tableau is not None], **more)


def _ld3(cell: Cell, samples: int, **more: Any) -> Fitted:
    pairs = [(name, order, grid) for grid in cell.grids() for name, order in SOLVERS[:3]]
    return ld3(cell.spending(samples), [pair for pair in pairs if _built(cell, *pair) is not None], **more)


def _bespoke(cell: Cell, samples: int, **more: Any) -> Fitted:
    on = cell.spending(samples)
    ends = teacher_ends(on, more.pop("teacher_steps", 60))
    return bespoke(on, multistep_starts(tables(cell), on, ends, 1), ends=ends, **more)


def _ours(cell: Cell, samples: int, mode: str) -> Fitted:
    plan = replace(cell.plan, fit_samples=samples)
    (result,) = fit(cell.on.model, cell.on.guidance, plan, mode, evaluations=(cell.evaluations,))
    return Fitted(result.parameters.tableau(), sum(result.report.model_evaluations.values()), 0)


def _paper(cell: Cell, samples: int, method: str) -> Fitted:
    model = cell.on.model
    grid = usual_schedule(model.coordinate, cell.evaluations, *model.sigma_range)
    extra_args = model.extra_args(cell.plan.prompts(model)[0])
    result = distill(
        model.denoiser(cell.on.guidance),
        model.noise(samples, cell.plan.fit_seed) * float(grid[0]),
        grid,
        method=method,
        coordinate=model.coordinate,
        extra_args=extra_args,
        sigma_min=model.sigma_min,
        micro_batch=64,
        groups=extra_args(torch.arange(samples))["labels"].tolist(),
    )
    return Fitted(result.parameters.tableau(), sum(result.report.model_evaluations.values()), 0)


@dataclass(frozen=True)
class Method:
    """A fit, what it is called in the plot, and the settings at which it is measured."""

    label: str
    fit: Callable[..., Fitted]
    settings: tuple[dict[str, Any], ...]


def _samples(*counts: int, **more: Any) -> tuple[dict[str, Any], ...]:
    return tuple({"samples": count, **more} for count in counts)


def _alike(samples: int, steps: int, batch: int, **more: Any) -> dict[str, Any]:
    return {"samples": samples, "steps": steps, "batch": batch, **more}


METHODS: dict[str, Method] = {
    "balanced": Method("D-ODE, balanced", _ours, _samples(8, 16, 32, 64, 128, 256, 512, mode="balanced")),
    "best": Method("D-ODE, best", _ours, _samples(8, 16, 32, 64, 128, mode="best")),
    "paper-euler": Method("D-ODE, paper, Euler", _paper, _samples(8, 32, 128, method="euler")),
    "paper-ipndm": Method("D-ODE, paper, iPNDM", _paper, _samples(8, 32, 128, method="ipndm")),
    "gits": Method("GITS", _gits, (*_samples(4, teacher_steps=30), *_samples(8, 32, 256))),
    "dc-solver": Method("DC-Solver", _dc_solver, _samples(3, 10, 30)),
    "ld3": Method("LD3", _ld3, (*_samples(8, rounds=(1, 2)), *_samples(20, 100, rounds=(2, 5)))),
    "bns": Method("BNS", _bespoke, (_alike(8, 20, 4), _alike(16, 40, 8), _alike(32, 80, 12), _alike(64, 160, 16))),
    "gradients": Method(
        "all numbers by gradients, preconditioned",
        _bespoke,
        (_alike(16, 30, 8, preconditioned=True, rate=0.2), _alike(64, 80, 16, preconditioned=True, rate=0.2)),
    ),
}


def measured(cell: Cell, name: str, setting: dict[str, Any], stock: float) -> Row:
    """A row of the study. The table that is run is the one that the fit gave, within its evaluations."""
    began = time.time()
    found = METHODS[name].fit(cell, **setting)
    seconds = time.time() - began
    if found.tableau.evaluations > cell.evaluations:
        raise RuntimeError(f"{name} needs {found.tableau.evaluations} evaluations where {cell.evaluations} are allowed.")
    on = cell.on
    ends = run_table(on.model, on.guidance, found.tableau, on.noise, on.extra_args, guided=on.guidance != 1)
    result = score(ends, on.reference)
    return {
        **_key(on.model.name, on.guidance, cell.evaluations),
        "method": name,
        "setting": ", ".join(f"{key} {value}" for key, value in setting.items()),
        "forward": found.forward,
        "backward": found.backward,
        "evaluations": found.evaluations,
        "error": round(result["error"], 6),
        "median": round(result["median"], 6),
        "ratio": round(result["error"] / stock, 4),
        "seconds": round(seconds, 1),
    }


def _key(model: str, guidance: float, evaluations: int) -> Row:
    return {"model": model, "guidance": guidance, "NFE": evaluations}


def same_cell(one: Row, other: Row) -> bool:
    return all(one[key] == other[key] for key in ("model", "guidance", "NFE"))


def _before(cell: Row, stock: float) -> Iterator[Row]:
    """Points of the fit as it was, measured once on the same test noise."""
    known = json.loads(BEFORE.read_text(encoding="utf-8"))["rows"] if BEFORE.exists() else []
    for row in known:
        if same_cell(row, cell):
            yield {**row, "ratio": round(row["error"] / stock, 4)}


def merged_rows(rows: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """Rows of before and new ones, which take the place of what has the same cell, method and setting; in order."""
    found = {(*(row[key] for key in ("model", "guidance", "NFE", "method", "setting")),): row for row in (*rows, *new)}
    order = [*METHODS, *dict.fromkeys(row["method"] for row in found.values() if row["method"] not in METHODS)]
    return sorted(
        found.values(), key=lambda r: (r["model"], r["guidance"], r["NFE"], order.index(r["method"]), r["evaluations"])
    )


def label_of(method: str) -> str:
    return METHODS[method].label if method in METHODS else f"D-ODE, {method}"


def markdown(result: dict[str, Any]) -> str:
    """The report, a table a cell."""
    text = ["# Study: budget", *(f"    {command}" for command in result["commands"]), _READING, result["machine"]]
    for stock in result["stock"]:
        text.append(f"## {stock['model']}, guidance {stock['guidance']:g}, {stock['NFE']} NFE")
        text.append(f"Best stock: {stock['name']}, {stock['error']:.4f}, on {stock['samples']} test samples.")
        counts = ("forward", "backward", "evaluations")
        rows = (
            [label_of(r["method"]), r["setting"], *(str(r[k]) for k in counts), f"{r['error']:.4f}", f"{r['ratio']:.3f}"]
            for r in result["rows"]
            if same_cell(r, stock)
        )
        text.append(table(["method", "setting", "forward", "with backward", "evaluations", "error", "ratio"], rows))
    return "\n\n".join(text) + "\n"


_READING = (
    "Error: RMS distance to the converged solution on noise and prompts that no fit has seen. Ratio: to the best of all stock "
    "samplers on all stock schedules, chosen on that very noise. Forward: all guided evaluations of a fit, each counted once a "
    "sample, its teacher and its choice of a start included. With backward: how many of them were differentiated. Evaluations: "
    "both in one figure, where one with its way back counts as three. Our fits use no gradients."
)


def budget(options: argparse.Namespace, plan: Plan, save: Save) -> None:
    """Measure the methods asked for in each cell; rows of an earlier report in the same folder stay."""
    path = options.output / "budget.json"
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    result: dict[str, Any] = {"commands": [], "machine": torch_settings(options.device), "stock": [], "rows": [], **earlier}
    result["commands"] = list(dict.fromkeys([*result["commands"], options.command]))
    for name in options.models:
        model: BenchModel = replace(MODELS[name](torch.device(options.device)), reference_steps=REFERENCE_STEPS)
        for guidance in plan.guidances:
            on = trial(model, guidance, plan)
            for evaluations in plan.evaluations:
                key = _key(name, guidance, evaluations)
                names = plan.finalists(name, guidance, evaluations)
                best = search(model, guidance, evaluations, on.noise, on.reference, on.extra_args, names)
                stock = stock_record(best, on.reference)
                record = {**key, "name": stock["name"], "error": stock["error"], "samples": len(on.noise)}
                result["stock"] = [s for s in result["stock"] if not same_cell(s, key)] + [record]
                result["rows"] = merged_rows(result["rows"], list(_before(key, stock["error"])))
                print(record, flush=True)
                for method in options.methods or METHODS:
                    for setting in METHODS[method].settings:
                        row = measured(Cell(on, evaluations, plan), method, setting, stock["error"])
                        result["rows"] = merged_rows(result["rows"], [row])
                        print(row, flush=True)
                        save(result, markdown(result))
                save(result, markdown(result))
                error_over_spending(result, label_of, _limits(options.output), options.output / "budget.png")


def _limits(folder: Path) -> list[Row]:
    """Rows of the study of limits, if the folder has it."""
    path = folder / "limit.json"
    return json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
