"""Fréchet distance on the embedded model, whose true pictures can be drawn without end.

Features are the coefficients of the pixels on the 64 leading principal directions of the true pictures: no trained network, so
nothing that prefers one kind of error; it sees what 64 directions see, colours and large shapes more than fine texture. The
reference is the converged solution on the same noise; true pictures against other true ones give the distance that is only
due to the number of samples.
"""

import argparse
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.models import BenchModel, embedded
from benchmarks.quality_cells import Plan, fit, torch_settings, trial
from benchmarks.quality_report import table
from benchmarks.stock_search import run_stock, run_table, search
from dode.demo.pictures import CLASSES, draw
from dode.methods import build_tableau
from dode.schedules import schedule

DIRECTIONS, REFERENCE_STEPS, SEED = 64, 25, 5000


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


def _rows(model: BenchModel, guidance: float, count: int, plan: Plan, basis: Tensor, mean: Tensor, true: Tensor) -> Any:
    noise, extra = model.noise(count, SEED), model.extra_args()

    def features(samples: Tensor) -> Tensor:
        return (samples.cpu().double().flatten(1) - mean) @ basis

    def row(name: str, evaluations: int, samples: Tensor) -> dict[str, Any]:
        found = features(samples)
        return {
            "guidance": guidance,
            "sampler": name,
            "evaluations": evaluations,
            "to true pictures": distance(found, true),
            "to the reference": distance(found, exact),
        }

    build = build_tableau("heun", schedule("karras", REFERENCE_STEPS, *model.sigma_range))
    reference = run_table(model, guidance, build, noise, extra)
    exact = features(reference)
    yield row("reference", build.evaluations, reference)
    on = trial(model, guidance, plan)
    fits = {mode: fit(model, guidance, plan, mode) for mode in plan.modes}
    for number, evaluations in enumerate(plan.evaluations):
        names = plan.finalists(model.name, guidance, evaluations)
        best = search(model, guidance, evaluations, on.noise, on.reference, on.extra_args, names)
        samples, _ = run_stock(model, guidance, best.candidate, noise, extra)
        yield row(f"stock: {best.candidate.name}", evaluations, samples)
        for mode, results in fits.items():
            tableau = results[number].parameters.tableau()
            yield row(f"distilled, {mode}", evaluations, run_table(model, guidance, tableau, noise, extra, guided=True))


def frechet(options: argparse.Namespace, plan: Plan) -> tuple[dict[str, Any], str]:
    """Reference, best stock sampler and distilled ones at each number of evaluations: the report, as JSON and in Markdown."""
    started, count = time.time(), options.frechet
    model = embedded(torch.device(options.device))
    mine, others = true_pictures(count, 1), true_pictures(count, 2)
    mean = mine.mean(0)
    basis = torch.linalg.eigh(torch.cov(mine.T))[1][:, -DIRECTIONS:]
    true = (mine - mean) @ basis
    floor = distance((others - mean) @ basis, true)
    rows: list[dict[str, Any]] = []
    for guidance in plan.guidances:
        for row in _rows(model, guidance, count, plan, basis, mean, true):
            rows.append(row)
            print(row, flush=True)
    explained = float(np.square(true.std(0)).sum() / mine.var(0).sum())
    result = {
        "command": options.command,
        "machine": torch_settings(options.device),
        "seconds": time.time() - started,
        "pictures": count,
        "explained": explained,
        "floor": floor,
        "rows": rows,
    }
    heads = ["guidance", "sampler", "NFE", "to true pictures", "to the reference"]
    cells = [[f"{v:.4f}" if isinstance(v, float) and k != "guidance" else f"{v}" for k, v in r.items()] for r in rows]
    text = ["# Fréchet distance on the embedded model", f"    {options.command}", (__doc__ or "").partition("\n\n")[2].strip()]
    text.append(
        f"{count} pictures on each side; the directions hold {explained:.0%} of the variance. True pictures against other true "
        f"ones: {floor:.4f}. Reference: {REFERENCE_STEPS} steps of Heun's method. Stock: the sampler that is nearest to the "
        f"converged solution on {plan.test_samples} test samples."
    )
    return result, "\n\n".join([*text, table(heads, cells)]) + "\n"
