"""Tables of the benchmark of quality, in Markdown, and the merging of parts."""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

Cell = dict[str, Any]

_READING = (
    "Error: RMS distance to the converged solution over all elements of the test samples, which have other noise than those of "
    "the fit; with the models that are named -prompts other prompts too, and where fits leave classes out, other classes. Best "
    "stock: the best of all deterministic samplers of ComfyUI and k-diffusion on all schedules of ComfyUI, with "
    "the most steps that fit the evaluations; an evaluation is one call of the guided model. Candidates are ranked on a few of "
    "the test samples by tables that equal the stock functions to 1e-9; the best six are run by the stock functions themselves "
    "on all test samples, and the best of those counts. Ratio: error of the distilled sampler over that of the best stock one, "
    "with a 95 % interval from 2000 paired bootstrap samples. Median: of the RMS distance of single samples."
)


def geometric_mean(values: Iterable[float]) -> float:
    found = list(values)
    return math.exp(sum(map(math.log, found)) / len(found)) if found else math.nan


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def modes_of(cells: Iterable[Cell]) -> list[str]:
    return list(dict.fromkeys(mode for cell in cells for mode in cell["distilled"]))


def rotated(cell: Cell) -> bool:
    """Whether fits took turns over the classes: then a mode has several samplers, and none that stands for it."""
    return any("turns" in d for d in cell["distilled"].values())


def _cell_rows(cells: Sequence[Cell]) -> Iterable[list[str]]:
    for cell in cells:
        stock = cell["stock"]
        start = [cell["model"], f"{cell['guidance']:g}", str(cell["evaluations"])]
        base = [stock["name"], f"{stock['error']:.4f}", f"{stock['psnr']:.1f}", f"{stock['median']:.4f}"]
        for mode, d in cell["distilled"].items():
            low, high = d["interval"]
            mine = [mode, f"{d['error']:.4f}", f"{d['psnr']:.1f}", f"{d['median']:.4f}", f"**{d['ratio']:.3f}**"]
            yield [*start, *base, *mine, f"{low:.3f} to {high:.3f}"]


def _summary_rows(cells: Sequence[Cell]) -> Iterable[list[str]]:
    models = list(dict.fromkeys(cell["model"] for cell in cells))
    for mode in modes_of(cells):
        for name in [*models, "all"]:
            found = [
                (c["distilled"][mode], c["stock"]) for c in cells if name in (c["model"], "all") and mode in c["distilled"]
            ]
            if not found:
                continue
            ratios = [mine["ratio"] for mine, _ in found]
            above = f"{sum(r > 1 for r in ratios)} of {len(ratios)}"
            medians = geometric_mean(mine["median"] / stock["median"] for mine, stock in found)
            yield [mode, name, f"**{geometric_mean(ratios):.3f}**", f"{max(ratios):.3f}", above, f"{medians:.3f}"]


def same_as_stock(cells: Sequence[Cell]) -> Iterable[list[str]]:
    """With how many evaluations each distilled sampler does what stock's best needs more for, among those measured."""
    for cell in cells:
        for mode, d in cell["distilled"].items():
            others = [c for c in cells if (c["model"], c["guidance"]) == (cell["model"], cell["guidance"])]
            measured = {c["evaluations"]: c["stock"]["error"] for c in others} | {
                int(n): e for c in others for n, e in c.get("stock_beyond", {}).items()
            }
            enough = [n for n, error in sorted(measured.items()) if error <= d["error"]]
            reached = str(enough[0]) if enough else f"over {max(measured)}"
            yield [cell["model"], f"{cell['guidance']:g}", mode, str(cell["evaluations"]), reached]


def markdown(result: dict[str, Any]) -> str:
    """The whole report."""
    cells = result["cells"]
    parts = [f"    {part['command']}" for part in result["parts"]]
    settings = sorted({f"{part['machine']}; {part['samples']}; {part['seconds'] / 60:.0f} min" for part in result["parts"]})
    heads = ["model", "guidance", "NFE", "best stock", "error", "PSNR", "median"]
    heads += ["distilled", "error", "PSNR", "median", "ratio", "95 %"]
    references = {(c["model"], c["guidance"]): c["reference_error"] for c in cells}
    text = ["# Distilled samplers against the best stock sampler", "\n".join(parts), "  \n".join(settings), _READING]
    text += [
        "## Summary",
        table(
            ["mode", "model", "geometric mean of ratios", "worst", "above 1", "geometric mean of medians' ratios"],
            _summary_rows(cells),
        ),
    ]
    text += ["## Cells", table(heads, _cell_rows(cells))]
    text += ["## Stock's evaluations for the same error", "The fewest evaluations, of those measured, at which the best stock "]
    text[-1] += "sampler is as good as the distilled one."
    text.append(table(["model", "guidance", "distilled", "NFE", "stock's NFE"], same_as_stock(cells)))
    text += ["## Reference", "Distance between the reference and the same solver with half the steps."]
    text.append(table(["model", "guidance", "distance"], ([m, f"{w:g}", f"{e:.2g}"] for (m, w), e in references.items())))
    text += ["## Left out", table(["sampler", "why"], result["left_out"].items())]
    return "\n\n".join(text) + "\n"


def merged(paths: Sequence[Path]) -> dict[str, Any]:
    """Several runs as one; of a cell that several have, all modes, each as the last of them has it."""
    results = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    cells: dict[Any, Cell] = {}
    for cell in (cell for result in results for cell in result["cells"]):
        key = cell["model"], cell["guidance"], cell["evaluations"]
        cells[key] = {**cell, "distilled": {**cells.get(key, {}).get("distilled", {}), **cell["distilled"]}}
    ordered = sorted(cells.items(), key=lambda item: item[0])
    parts = [part for result in results for part in result["parts"]]
    return {"parts": parts, "cells": [cell for _, cell in ordered], "left_out": results[-1]["left_out"]}
