"""The paper's studies of a fit's settings, and its picture of trajectories.

    python -m benchmarks.paper.studies --output benchmarks/results/quality

How many steps the teacher takes for each of the student's (the scale S), and how many samples are fitted (the batch size), for
solvers of the paper as published, without guard; errors are RMS distances to the converged solution on new noise and prompts.
The picture shows the variance-preserving state x / √(1 + σ²) of one sample, for a student, its D- version and the teacher: its
norm over the noise levels, and its way along the first two principal components of the teacher's.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.models.bench_models import MODELS, BenchModel
from benchmarks.paper.comparison import SOLVERS, Solver, fitted, grid_of
from benchmarks.quality.cells import Plan, score, trial
from benchmarks.quality.plots import save_figure
from benchmarks.quality.report import table
from benchmarks.quality.stock_search import run_table
from benchmarks.reports import measured, parsed, parser_of, write
from dode.fit.paper import SUBSTEPS
from dode.images import pyplot
from dode.methods import build_tableau, steps_within
from dode.tableau import Array, Tableau
from dode.teacher import trajectory

SCALES, BATCHES, STEPS = (2, 5, 10, 20, 40), (2, 4, 8, 16, 32, 64, 128, 256), (5, 10)
_HELD = 0.25
Row = dict[str, Any]


def study(model: BenchModel, guidance: float, plan: Plan, solvers: Sequence[Solver], schedule: str | None) -> Iterator[Row]:
    """A row for each setting, solver and number of evaluations."""
    on = trial(model, guidance, plan)
    settings = [("S", scale) for scale in SCALES] + [("batch size", batch) for batch in BATCHES]
    for name, value in settings:
        for solver in solvers:
            for evaluations in STEPS:
                choice = solver.choice(model.coordinate)
                steps = steps_within(choice.method, evaluations, choice.order)
                assert choice.teacher is not None
                if name == "S":
                    choice = replace(
                        choice, teacher=replace(choice.teacher, substeps=choice.teacher.substeps // SUBSTEPS * value)
                    )
                # The fitted part of so many samples is the batch.
                samples = round(value / (1 - _HELD)) if name == "batch size" else plan.fit_samples
                fit = fitted(
                    model,
                    guidance,
                    replace(plan, fit_samples=max(samples, value + 1) if name == "batch size" else samples),
                    choice,
                    grid_of(model, steps, schedule),
                    guard=False,
                )
                error = score(run_table(model, guidance, fit, on.noise, on.extra_args), on.reference)["error"]
                yield {"study": name, "value": value, "solver": solver.label(), "evaluations": evaluations, "error": error}


def path_of(model: BenchModel, guidance: float, tableau: Tableau, number: int) -> Array:
    """The variance-preserving state of one sample at the start and after each step, (steps + 1, m)."""
    noise = model.noise(number + 1, 7)[number:]
    extra = model.extra_args(model.fit_prompts)(torch.tensor([number]))
    denoiser = model.denoiser(guidance)
    with torch.no_grad():
        states = trajectory(lambda x, sigma: denoiser(x, sigma, **extra), noise * tableau.sigma, tableau, 1)
    every = torch.cat([noise[None] * tableau.sigma, states]).flatten(1).double().numpy()
    return every / np.sqrt(1 + np.array(tableau.sigmas) ** 2)[:, None]


def draw(
    model: BenchModel, guidance: float, plan: Plan, solver: Solver, evaluations: int, schedule: str | None, path: Path
) -> Path:
    """The picture of trajectories."""
    choice = solver.choice(model.coordinate)
    grid = grid_of(model, steps_within(choice.method, evaluations, choice.order), schedule)
    base = build_tableau(choice.method, grid, choice.order, model.coordinate)
    assert choice.teacher is not None
    tables = {
        "teacher": choice.teacher.tableau(base.levels, model.sigma_min),
        "student": base,
        "D-student": fitted(model, guidance, plan, choice, grid, guard=False),
    }
    paths = {name: path_of(model, guidance, each, 0) for name, each in tables.items()}
    centre = paths["teacher"].mean(0)
    axes_of = np.linalg.svd(paths["teacher"] - centre, full_matrices=False)[2][:2]
    plt = pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.6), layout="constrained")
    for name, style in (("teacher", "-"), ("student", "o-"), ("D-student", "s-")):
        states, size = paths[name], 1.5 if name == "teacher" else 4
        colour = {"teacher": "0.5", "student": "C0", "D-student": "C1"}[name]
        times = np.array(tables[name].sigmas) ** (1 / 7)  # Karras's schedule is uniform in these
        left.plot(times, np.linalg.norm(states, axis=1), style, color=colour, label=name, markersize=size)
        right.plot(*((states - centre) @ axes_of.T).T, style, color=colour, label=name, markersize=size)
    left.set(xlabel="σ^(1/7), from noise to picture", ylabel="norm of the state")
    left.invert_xaxis()
    right.set(xlabel="first principal component", ylabel="second")
    for axis in (left, right):
        axis.grid(True, linewidth=0.3)
    left.legend(fontsize=8)
    figure.suptitle(f"{solver.label()}, {evaluations} evaluations, {model.name}", fontsize=10)
    return save_figure(figure, path)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--model", choices=MODELS, default="eps-prompts")
    parser.add_argument("--drawn", choices=MODELS, default="embedded", help="the model whose trajectories are drawn")
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--schedule", help="another than the paper's kind for the model", default="karras")
    parser.add_argument("--fit-samples", type=int, default=128)
    parser.add_argument("--test-samples", type=int, default=128)
    options = parsed(parser, "benchmarks.paper.studies")
    plan = Plan((), (options.guidance,), (), options.fit_samples, options.test_samples, kept=options.references)
    model = MODELS[options.model](torch.device("cpu"))
    solvers = [each for each in SOLVERS if each.label() in ("DDIM, noise", "iPNDM", "DPM-Solver-2", "DEIS, tAB2")]
    found: list[Row] = []
    for row in study(model, options.guidance, plan, solvers, options.schedule):
        found.append(row)
        print(row, flush=True)
    content = measured(options, found)
    text = [
        f"# The scale S and the batch size\n\n    {options.command}",
        f"{content['machine']}. {(__doc__ or '').split(chr(10) * 2)[2]}",
    ]
    for study_name, values in (("S", SCALES), ("batch size", BATCHES)):
        body = []
        for solver in solvers:
            for evaluations in STEPS:
                here = [
                    r for r in found if (r["study"], r["solver"], r["evaluations"]) == (study_name, solver.label(), evaluations)
                ]
                body.append([solver.label(), str(evaluations), *(f"{row['error']:.4f}" for row in here)])
        text.append(f"## {study_name}")
        text.append(table(["solver", "evaluations", *map(str, values)], body))
    write(content, "\n\n".join(text) + "\n", options.output, "paper_studies")
    drawn = MODELS[options.drawn](torch.device("cpu"))
    data = next(each for each in SOLVERS if each.label() == "DDIM, data")
    print(
        draw(
            drawn,
            options.guidance,
            replace(plan, fit_samples=32),
            data,
            5,
            options.schedule,
            options.output / "paper_trajectory.png",
        )
    )


if __name__ == "__main__":
    main()
