"""Errors by class of the samplers of an earlier report.

Each number is an RMS error on one class's test samples, divided by that of the best stock sampler of the cell on the same
samples; geometric mean over the numbers of evaluations. Beside it, in brackets, the stock sampler's own error on that class,
divided by its error on all: a class far above 1 decides most of a cell's error.
"""

import argparse
import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from benchmarks.models.bench_models import MODELS
from benchmarks.quality.cells import Plan, Trial, class_of, restored, run_each, squares, trial
from benchmarks.quality.report import Cell, geometric_mean, rotated, table
from benchmarks.quality.stock_search import candidates, run_stock
from benchmarks.reports import measured
from dode.demo.pictures import CLASSES


def _rows(on: Trial, plan: Plan, cell: Cell) -> Iterator[dict[str, Any]]:
    """For each mode of a cell the ratio of errors in each class, and how the stock sampler's error spreads over them."""
    evaluations = cell["evaluations"]
    (best,) = candidates(on.model, evaluations, (cell["stock"]["name"],))
    others = squares(run_stock(on.model, on.guidance, best, on.noise, on.extra_args)[0], on.reference)
    owners = class_of(on.extra_args(torch.arange(len(on.noise)))["labels"].cpu().numpy())
    for mode, distilled in cell["distilled"].items():
        found = [restored(record["parameters"]) for record in distilled.get("turns", [distilled])]
        mine = squares(run_each(on, plan, found, evaluations), on.reference)
        yield {
            "model": on.model.name,
            "guidance": on.guidance,
            "NFE": evaluations,
            "mode": mode,
            "ratios": [float(np.sqrt(mine[owners == c].mean() / others[owners == c].mean())) for c in range(len(CLASSES))],
            "stock": [float(np.sqrt(others[owners == c].mean() / others.mean())) for c in range(len(CLASSES))],
        }


def by_class(options: argparse.Namespace, plan: Plan) -> tuple[dict[str, Any], str]:
    """Ratios of errors by class, of an earlier report: as JSON and in Markdown. ``plan`` has the turns that report was made in.

    Raises:
        SystemExit: no earlier report was given, or its fits took turns over the classes and the plan's do not, or the reverse.
    """
    started = time.time()
    if options.shortlist is None:
        raise SystemExit("--by-class measures the samplers of an earlier report: give it with --shortlist JSON.")
    report = json.loads(options.shortlist.read_text(encoding="utf-8"))["cells"]
    asked = [cell for cell in report if cell["model"] in options.models]
    if any(rotated(cell) != bool(plan.rotation) for cell in asked):
        raise SystemExit(f"Give --held-out-classes if, and only if, {options.shortlist} was made with it.")
    rows: list[dict[str, Any]] = []
    for name in options.models:
        model = MODELS[name](torch.device(options.device))
        for guidance in plan.guidances:
            on = trial(model, guidance, plan)
            for cell in report:
                if (cell["model"], cell["guidance"]) == (name, guidance) and cell["evaluations"] in plan.evaluations:
                    rows += _rows(on, plan, cell)
            print(f"{name}, guidance {guidance:g}: {time.time() - started:.0f} s", flush=True)
    result = measured(options, rows, test_samples=plan.test_samples)
    text = ["# Errors by class", f"    {options.command}", (__doc__ or "").partition("\n\n")[2].strip()]
    text.append(f"{result['machine']}; {plan.test_samples} samples to test on, samplers of `{options.shortlist.as_posix()}`.")
    return result, "\n\n".join([*text, table(["model", "guidance", "mode", *CLASSES], _summary(rows))]) + "\n"


def _summary(rows: list[dict[str, Any]]) -> Iterator[list[str]]:
    keys = dict.fromkeys((row["model"], row["guidance"], row["mode"]) for row in rows)
    for key in keys:
        same = [row for row in rows if (row["model"], row["guidance"], row["mode"]) == key]
        means = [
            [geometric_mean(values) for values in zip(*(row[k] for row in same), strict=True)] for k in ("ratios", "stock")
        ]
        yield [key[0], f"{key[1]:g}", key[2], *(f"{mine:.2f} ({stock:.1f})" for mine, stock in zip(*means, strict=True))]
