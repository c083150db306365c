"""Distilled samplers against the best of all stock samplers on all stock schedules.

    COMFYUI_DIR=… python -m benchmarks.quality --mode quick --output OUT
    python -m benchmarks.quality --mode full --held-out-classes --output OUT                            on new noise and prompts
    python -m benchmarks.quality --mode full --models embedded --guidance 3 --output OUT/embedded_3     a part of the whole
    python -m benchmarks.quality --merge OUT/*/quality.json --output OUT                                the parts in one report
    python -m benchmarks.quality --study samples --output OUT                                           another question
    python -m benchmarks.quality --study budget --shortlist OUT/quality.json --output OUT              what fits spend
    python -m benchmarks.quality --frechet 10000 --shortlist OUT/quality.json --output OUT             of that report's samplers
    python -m benchmarks.quality --by-class --shortlist OUT/quality.json --output OUT                   their errors by class

Each run writes JSON, a table in Markdown and plots into its folder.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.models.bench_models import ALL_CLASSES, MODELS
from benchmarks.quality.cells import USUAL, Plan, cells
from benchmarks.quality.plots import error_over, fitted, work_precision
from benchmarks.quality.report import markdown, merged, modes_of, rotated
from benchmarks.quality.stock_search import left_out
from benchmarks.reports import made, parsed, parser_of, write

PLANS = {
    "default": Plan((4, 5, 6, 8, 10), (1.0, 3.0, 6.0), ("balanced",), USUAL, 128),  # as Distill Sampler comes
    "quick": Plan((4, 8), (1.0, 3.0), ("balanced",), 32, 32),
    "full": Plan((4, 5, 6, 8, 10), (1.0, 3.0, 6.0), ("balanced",), 128, 128),
}
PAIRS = tuple(zip(ALL_CLASSES[::2], ALL_CLASSES[1::2], strict=True))
STUDIES = ("samples", "prompts", "teacher", "transfer", "cost", "ablations", "parts", "residual")
KEPT_STUDIES = ("budget", "limit")  # what these measured before, in the same folder, stays


def plan_of(options: argparse.Namespace) -> Plan:
    """The mode's plan, narrowed by the options that were given."""
    plan = PLANS[options.mode]
    changes = {
        "evaluations": tuple(options.evaluations or plan.evaluations),
        "guidances": tuple(options.guidance or plan.guidances),
        "modes": tuple(options.fit_modes or plan.modes),
        "fit_samples": options.fit_samples or plan.fit_samples,
        "test_samples": options.test_samples or plan.test_samples,
        "shortlist": shortlist(options.shortlist),
        "rotation": PAIRS if options.held_out_classes else (),
        "before": samplers(options.before),
        "kept": options.references,
    }
    return replace(plan, **changes)


def shortlist(path: Path | None) -> dict[tuple[str, float, int], dict[str, Any]]:
    """The finalists of the stock search in an earlier report, by model, guidance and evaluations."""
    earlier = json.loads(path.read_text(encoding="utf-8"))["cells"] if path else []
    return {(c["model"], c["guidance"], c["evaluations"]): c["stock"] for c in earlier}


def samplers(path: Path | None) -> dict[tuple[str, float, int], list[dict[str, Any]]]:
    """The samplers of an earlier report, by model, guidance and evaluations: of each turn of its fits one."""
    earlier = json.loads(path.read_text(encoding="utf-8"))["cells"] if path else []
    return {
        (c["model"], c["guidance"], c["evaluations"]): d.get("turns") or [d]
        for c in earlier
        for mode, d in c["distilled"].items()
        if mode == "balanced"
    }


def write_quality(result: dict[str, Any], folder: Path) -> None:
    """The report with its plots."""
    write(result, markdown(result), folder, "quality")
    work_precision(result["cells"], folder / "work_precision.png")
    drawn = [cell for cell in result["cells"] if not rotated(cell)]
    for mode in (mode for mode in modes_of(drawn) if mode != "before"):  # whose samplers are in the report they came from
        fitted(drawn, mode, folder / f"fitted_{mode}.png")


def part(options: argparse.Namespace, plan: Plan) -> dict[str, Any]:
    """What a part of a report says of how it came about."""
    fitted = "usual numbers of samples" if plan.fit_samples == USUAL else f"{plan.fit_samples} samples"
    samples = f"{fitted} to fit on, {plan.test_samples} to test on"
    if plan.rotation:
        samples += (
            f", {len(plan.rotation)} fits, each tested on the classes that it leaves out, of models with nothing but classes"
        )
    return {**made(options), "samples": samples}


def compare(options: argparse.Namespace) -> None:
    """Measure every cell asked for; after each model and guidance scale, what there is so far is on disk."""
    plan, device = plan_of(options), torch.device(options.device)
    result: dict[str, Any] = {"parts": [], "cells": [], "left_out": left_out()}
    for name in options.models:
        model = MODELS[name](device)
        for guidance in plan.guidances:
            result["cells"] += cells(model, guidance, plan, say=lambda line: print(line, flush=True))
            result["parts"] = [part(options, plan)]
            write_quality(result, options.output)


def build_parser() -> argparse.ArgumentParser:
    parser = parser_of(__doc__)
    parser.add_argument("--mode", choices=PLANS, default="quick")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["embedded", "flow-prompts", "eps-prompts"])
    parser.add_argument("--guidance", nargs="+", type=float)
    parser.add_argument("--evaluations", nargs="+", type=int)
    parser.add_argument("--fit-modes", nargs="+", choices=("balanced", "best"))
    parser.add_argument("--fit-samples", type=int)
    parser.add_argument("--test-samples", type=int)
    parser.add_argument(
        "--held-out-classes",
        action="store_true",
        help="of models without other prompts: four fits, each tested on two classes that it leaves out",
    )
    parser.add_argument("--shortlist", type=Path, metavar="JSON", help="run only the finalists of an earlier stock search")
    parser.add_argument("--before", type=Path, metavar="JSON", help="measure the samplers of an earlier report beside the new")
    parser.add_argument("--merge", nargs="+", type=Path, metavar="JSON", help="make one report of several runs")
    parser.add_argument("--study", choices=STUDIES + KEPT_STUDIES)
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="of the study of budgets: only these fits")
    parser.add_argument("--frechet", type=int, metavar="N", help="Fréchet distance to N true pictures, on the embedded model")
    parser.add_argument("--by-class", action="store_true", help="errors by class of the samplers of --shortlist")
    parser.add_argument("--device", default="cpu")
    return parser


def main() -> None:
    options = parsed(build_parser(), "benchmarks.quality")
    if options.merge:
        write_quality(merged(options.merge), options.output)
    elif options.frechet:
        from benchmarks.quality.studies.frechet import frechet

        result, text = frechet(options, plan_of(options))
        write(result, text, options.output, "frechet")
    elif options.by_class:
        from benchmarks.quality.studies.classes import by_class

        result, text = by_class(options, plan_of(options))
        write(result, text, options.output, "classes")
    elif options.study in KEPT_STUDIES:
        from benchmarks.quality.studies.budget import budget
        from benchmarks.quality.studies.limit import limit

        study = {"budget": budget, "limit": limit}[options.study]
        study(options, plan_of(options), lambda result, text: write(result, text, options.output, options.study))
    elif options.study:
        from benchmarks.quality.studies.settings import run_study

        result, text = run_study(options, plan_of(options))
        write(result, text, options.output, options.study)
        if options.study in result["rows"][0]:  # it went through one setting's values
            error_over(result["rows"], options.study, options.output / f"{options.study}.png")
    else:
        compare(options)


if __name__ == "__main__":
    main()
