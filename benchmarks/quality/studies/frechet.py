"""Fréchet distance on the embedded model, whose true pictures can be drawn without end.

Features are the coefficients of the pixels on the 64 leading principal directions of the true pictures: no trained network, so
nothing that prefers one kind of error; it sees what 64 directions see, colours and large shapes more than fine texture. The
reference is the converged solution on the same noise; true pictures against other true ones give the distance that is only
due to the number of samples.
"""

import argparse
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.models.bench_models import BenchModel, embedded
from benchmarks.quality.cells import Plan, restored
from benchmarks.quality.report import rotated, table
from benchmarks.quality.stock_search import candidates, run_stock, run_table
from benchmarks.reports import measured
from dode.demo.pictures import CLASSES, draw
from dode.methods import build_tableau
from dode.schedules import schedule

DIRECTIONS, REFERENCE_STEPS, SEED = 64, 18, 5000  # EDM's steps for pictures of this size

Cell = dict[str, Any]


def true_pictures(count: int, seed: int) -> Tensor:
    """Fresh pictures, flat: (count, 3072); picture i has class i modulo 8."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % len(CLASSES)
    return torch.cat([draw(part, generator) for part in labels.split(500)]).flatten(1).double()


def distance(a: Tensor, b: Tensor) -> float:
    """Fréchet distance between Gaussians with the means and covariances of two sets of features (N, D)."""
    first, second = torch.cov(a.T), torch.cov(b.T)
    values, vectors = torch.linalg.eigh(first)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + first.trace() + second.trace() - 2 * cross)


class TruePictures:
    """True pictures as features, and what makes features of others.

    Attributes:
        features: (N, 64).
        explained: which part of the variance the directions hold.
        floor: the distance of as many other true pictures.
    """

    def __init__(self, count: int):
        mine, others = true_pictures(count, 1), true_pictures(count, 2)
        self._mean = mine.mean(0)
        self._basis = torch.linalg.eigh(torch.cov(mine.T))[1][:, -DIRECTIONS:]
        self.features = self.features_of(mine)
        self.explained = float(np.square(self.features.std(0)).sum() / mine.var(0).sum())
        self.floor = distance(self.features_of(others), self.features)

    def features_of(self, samples: Tensor) -> Tensor:
        """Coefficients of pictures on the leading principal directions of the true ones."""
        return (samples.cpu().double().flatten(1) - self._mean) @ self._basis


def _rows(model: BenchModel, guidance: float, cells: list[Cell], true: TruePictures) -> Iterator[Cell]:
    noise, extra = model.noise(len(true.features), SEED), model.extra_args(model.fit_prompts)

    def row(name: str, evaluations: int, samples: Tensor) -> Cell:
        found = true.features_of(samples)
        return {
            "guidance": guidance,
            "sampler": name,
            "evaluations": evaluations,
            "to true pictures": distance(found, true.features),
            "to the reference": distance(found, exact),
        }

    build = build_tableau("heun", schedule("karras", REFERENCE_STEPS, *model.sigma_range))
    reference = run_table(model, guidance, build, noise, extra)
    exact = true.features_of(reference)
    yield row("reference", build.evaluations, reference)
    for cell in cells:
        evaluations, name = cell["evaluations"], cell["stock"]["name"]
        (best,) = candidates(model, evaluations, (name,))
        yield row(f"stock: {name}", evaluations, run_stock(model, guidance, best, noise, extra)[0])
        for mode, fitted in cell["distilled"].items():
            tableau = restored(fitted["parameters"]).tableau()
            samples = run_table(model, guidance, tableau, noise, extra, guided=True)
            yield row(f"distilled, {mode}", evaluations, samples)


def frechet(options: argparse.Namespace, plan: Plan) -> tuple[dict[str, Any], str]:
    """Reference, and the best stock sampler and the distilled ones of an earlier report: the report, as JSON and in Markdown.

    Raises:
        SystemExit: no earlier report was given, or it has none of the cells.
    """
    count = options.frechet
    if options.shortlist is None:
        raise SystemExit("--frechet measures the samplers of an earlier report: give it with --shortlist JSON.")
    report = json.loads(options.shortlist.read_text(encoding="utf-8"))["cells"]
    whole = [c for c in report if not rotated(c)]
    chosen = [c for c in whole if c["model"] == "embedded" and c["evaluations"] in plan.evaluations]
    model = embedded(torch.device(options.device))
    true = TruePictures(count)
    rows: list[Cell] = []
    for guidance in plan.guidances:
        cells = [cell for cell in chosen if cell["guidance"] == guidance]
        if not cells:
            raise SystemExit(f"{options.shortlist} has no such cells of the embedded model at guidance {guidance:g}.")
        for row in _rows(model, guidance, cells, true):
            rows.append(row)
            print(row, flush=True)
    result = measured(options, rows, pictures=count, explained=true.explained, floor=true.floor)
    heads = ["guidance", "sampler", "NFE", "to true pictures", "to the reference"]
    texts = [[f"{v:.4f}" if isinstance(v, float) and k != "guidance" else f"{v}" for k, v in r.items()] for r in rows]
    text = ["# Fréchet distance on the embedded model", f"    {options.command}", (__doc__ or "").partition("\n\n")[2].strip()]
    text.append(
        f"{count} pictures on each side; the directions hold {true.explained:.0%} of the variance. True pictures against "
        f"other true "
        f"ones: {true.floor:.4f}. Reference: {REFERENCE_STEPS} steps of Heun's method on Karras's noise levels. Stock and "
        f"distilled "
        f"samplers are those of `{options.shortlist.as_posix()}`."
    )
    return result, "\n\n".join([*text, table(heads, texts)]) + "\n"
