"""How far our fits are from what any fit of the same numbers could reach."""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.models.bench_models import MODELS
from benchmarks.peers.bespoke import bespoke, multistep_starts
from benchmarks.peers.published import teacher_ends
from benchmarks.quality.cells import Plan, restored, score, trial
from benchmarks.quality.report import geometric_mean, table
from benchmarks.quality.stock_search import run_table
from benchmarks.quality.studies.budget import REFERENCE_STEPS, Cell, same_cell, tables
from benchmarks.reports import torch_settings
from dode.correction import Parameters
from dode.tableau import Tableau

_STEPS = {"quick": (40, 80), "full": (100, 300)}  # from each start, and from the best of these ends
_STARTS = {"quick": 1, "full": 3}  # undistilled ones
_BATCH = 16

_READING = (
    "The limit: all numbers of a table that our fit moves (weights of all outputs, noise levels, those that the model is told, "
    "weights of the guidance differences), learned with gradients through the model from several starts, ours among them if a "
    "report has it. Errors: RMS distance to the converged solution on noise and prompts that no fit has seen. Ours / limit: "
    "what is left to a fit of such numbers; stock: the best stock sampler of that report."
)


def limit(options: argparse.Namespace, plan: Plan, save: Callable[[dict[str, Any], str], None]) -> None:
    """The limit of each cell that an earlier report in the same folder does not have."""
    path = options.output / "limit.json"
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    result: dict[str, Any] = {"commands": [], "machine": torch_settings(options.device), "rows": [], **earlier}
    result["commands"] = list(dict.fromkeys([*result["commands"], options.command]))
    ours = _of_report(options)
    for name in options.models:
        model = replace(MODELS[name](torch.device(options.device)), reference_steps=REFERENCE_STEPS)
        for guidance in plan.guidances:
            on, ends = None, None
            for evaluations in plan.evaluations:
                key = {"model": name, "guidance": guidance, "NFE": evaluations}
                if any(same_cell(row, key) for row in result["rows"]):
                    continue
                on = on or trial(model, guidance, plan)
                cell = Cell(on, evaluations, plan)
                if ends is None:
                    ends = teacher_ends(cell.spending(plan.fit_samples), 60)
                row = {**key, **_limit(cell, ends, ours.get((name, guidance, evaluations)), options.mode)}
                result["rows"] = sorted([*result["rows"], row], key=lambda r: (r["model"], r["guidance"], r["NFE"]))
                print(row, flush=True)
                save(result, markdown(result))


def _of_report(options: argparse.Namespace) -> dict[tuple[str, float, int], tuple[Parameters, float]]:
    """Our sampler of each cell, and the best stock one's error, from the report of ``--shortlist``."""
    cells = json.loads(options.shortlist.read_text(encoding="utf-8"))["cells"] if options.shortlist else []
    found = {}
    for cell in cells:
        mine = [d["parameters"] for d in cell["distilled"].values() if "parameters" in d]
        if mine:
            found[(cell["model"], cell["guidance"], cell["evaluations"])] = restored(mine[0]), cell["stock"]["error"]
    return found


def _limit(cell: Cell, ends: Tensor, ours: tuple[Parameters, float] | None, mode: str) -> dict[str, Any]:
    on, began = cell.on, time.time()
    spent, mode = cell.spending(len(ends)), mode if mode in _STEPS else "quick"
    starts = multistep_starts(tables(cell), spent, ends, _STARTS[mode])

    def error(tableau: Tableau) -> float:
        made = run_table(on.model, on.guidance, tableau, on.noise, on.extra_args, guided=on.guidance != 1)
        return round(score(made, on.reference)["error"], 6)

    row: dict[str, Any] = {}
    if ours is not None:
        mine = ours[0].tableau()
        row = {"ours": error(mine), "stock": round(ours[1], 6)}
        if len(mine.rows) == cell.evaluations:
            starts.append(mine)
    first, then = _STEPS[mode]
    shared = {"preconditioned": True, "rate": 0.2, "batch": _BATCH, "ends": ends}
    found = bespoke(spent, starts, steps=then, first_steps=first, **shared)
    row = {"limit": error(found.tableau), **row, "samples": len(ends), "evaluations": found.evaluations}
    return {**row, "seconds": round(time.time() - began, 1)}


def markdown(result: dict[str, Any]) -> str:
    """The report: a row a cell."""
    heads = ["model", "guidance", "NFE", "limit", "ours", "ours / limit", "limit / stock", "samples", "evaluations"]
    rows, quotients = [], []
    for row in result["rows"]:
        mine, stock = row.get("ours"), row.get("stock")
        quotients += [mine / row["limit"]] if mine else []
        shown = [f"{mine:.4f}", f"{mine / row['limit']:.3f}", f"{row['limit'] / stock:.3f}"] if mine and stock else ["", "", ""]
        start = [row["model"], f"{row['guidance']:g}", str(row["NFE"]), f"{row['limit']:.4f}"]
        rows.append([*start, *shown, str(row["samples"]), str(row["evaluations"])])
    text = ["# Study: limit", *(f"    {command}" for command in result["commands"]), _READING, result["machine"]]
    text.append(table(heads, rows))
    if quotients:
        text.append(f"Ours / limit, geometric mean of {len(quotients)}: {geometric_mean(quotients):.3f}.")
    return "\n\n".join(text) + "\n"
