"""The paper's table: each of its solvers against its D- version, at a list of evaluations.

    python -m benchmarks.paper --models eps-prompts --evaluations 5 6 8 10 --output benchmarks/results/quality

Errors are RMS distances to the converged solution on noise (and prompts) that no fit has seen. Every solver runs on the paper's
kind of schedule for the model, uniform in time for noise prediction and Karras's for data prediction, for flow matching uniform
in σ, with as many steps as fit the evaluations. Fits are those of mode paper: "D-" without guard, as published, "guarded" as
the package does unless told otherwise. What differs from the paper by a setting is listed under the solver's name with that
setting.

With --frechet N the embedded model also gets the Fréchet distance of N pictures to true ones
(benchmarks.quality.studies.frechet).
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from benchmarks.models.bench_models import MODELS, BenchModel
from benchmarks.quality.cells import Plan, Trial, score, trial
from benchmarks.quality.report import table
from benchmarks.quality.stock_search import run_table, schedules
from benchmarks.quality.studies.frechet import SEED, TruePictures, distance
from benchmarks.reports import measured, parsed, parser_of, write
from dode.fit.distill import Choice, distill
from dode.fit.paper import SAMPLES, published
from dode.methods import build_tableau, steps_within
from dode.schedules import SCHEDULES, schedule, usual_schedule
from dode.tableau import Array, Directions, Tableau

_GUARDED = 10  # evaluations up to which the guarded fit is shown too
_KEYS = ("plain", "D-", "guarded")


class Solver(NamedTuple):
    """A solver and how it is fitted: as published, or with one thing changed, which ``differs`` names."""

    name: str
    method: str
    order: int | None = None
    directions: Directions | None = None
    differs: str = ""

    def choice(self, coordinate: str) -> Choice:
        teacher = "heun" if self.differs == "Heun's teacher" else None
        choice = published(self.method, order=self.order, directions=self.directions, coordinate=coordinate, teacher=teacher)
        return replace(choice, first_step=False) if self.differs == "first step plain" else choice

    def label(self) -> str:
        return f"{self.name}, {self.differs}" if self.differs else self.name


SOLVERS = (
    Solver("DDIM, data", "D-DDIM", directions="data"),
    Solver("DDIM, noise", "D-DDIM", directions="noise"),
    Solver("DDIM, noise", "D-DDIM", directions="noise", differs="first step plain"),
    Solver("iPNDM", "D-iPNDM"),
    Solver("iPNDM", "D-iPNDM", differs="first step plain"),
    Solver("iPNDM", "D-iPNDM", directions="noise", differs="raw differences"),
    Solver("DPM-Solver-2", "D-DPM-Solver-2"),
    Solver("DPM-Solver-2", "dpm_2", differs="in every interval"),
    Solver("DPM-Solver-3", "D-DPM-Solver-3"),
    Solver("DPM-Solver-3", "dpm_3", differs="in every interval"),
    Solver("DEIS, tAB1", "D-DEIS", 2),
    Solver("DEIS, tAB2", "D-DEIS", 3),
    Solver("DEIS, tAB2", "D-DEIS", 3, directions="noise", differs="raw differences"),
    Solver("DEIS, tAB3", "D-DEIS", 4),
    Solver("EDM", "D-EDM"),
    Solver("EDM", "D-EDM", differs="Heun's teacher"),
)
Row = dict[str, Any]


def grid_of(model: BenchModel, steps: int, name: str | None) -> Array:
    """The schedule of this name, by default the paper's kind for the model."""
    if name:
        return schedule(name, steps, *model.sigma_range)
    if model.sampling == "eps":
        return schedules(model, steps)["sgm_uniform"]
    return usual_schedule(model.coordinate, steps, *model.sigma_range)


def fitted(model: BenchModel, guidance: float, plan: Plan, choice: Choice, grid: Array, **settings: Any) -> Tableau:
    """The D- version of a solver on a grid."""
    found = distill(
        model.denoiser(guidance),
        model.noise(plan.fit_samples, plan.fit_seed) * float(grid[0]),
        grid,
        **vars(choice),
        coordinate=model.coordinate,
        micro_batch=64,
        extra_args=model.extra_args(plan.prompts(model)[0]),
        sigma_min=model.sigma_min,
        **settings,
    )
    return found.parameters.tableau()


def rows(
    model: BenchModel, guidance: float, plan: Plan, solvers: tuple[Solver, ...], named: str | None, pictures: int
) -> Iterator[Row]:
    """A row for each solver and number of evaluations."""
    on = trial(model, guidance, plan)
    true = TruePictures(pictures) if pictures and model.name == "embedded" else None
    plain: dict[tuple[Any, ...], dict[str, float]] = {}
    for solver in solvers:
        for evaluations in plan.evaluations:
            choice = solver.choice(model.coordinate)
            steps = steps_within(choice.method, evaluations, choice.order)
            if not steps:
                continue
            grid = grid_of(model, steps, named)
            base = build_tableau(choice.method, grid, choice.order, model.coordinate)
            key = (choice.method, choice.order, evaluations)
            if key not in plain:
                plain[key] = _measured(on, base, true, "plain")
            row: Row = {"model": model.name, "guidance": guidance, "solver": solver.label(), "evaluations": evaluations}
            row |= {"used": base.evaluations, **plain[key]}
            row |= _measured(on, fitted(model, guidance, plan, choice, grid, guard=False), true, "D-")
            if evaluations <= _GUARDED:
                row |= _measured(on, fitted(model, guidance, plan, choice, grid), None, "guarded")
            yield row


def _measured(on: Trial, tableau: Tableau, true: TruePictures | None, name: str) -> dict[str, float]:
    samples = run_table(on.model, on.guidance, tableau, on.noise, on.extra_args)
    found = {name: score(samples, on.reference)["error"]}
    if true is not None:
        noise, extra = on.model.noise(len(true.features), SEED), on.model.extra_args(on.model.fit_prompts)
        many = true.features_of(run_table(on.model, on.guidance, tableau, noise, extra))
        found[f"{name} Fréchet"] = distance(many, true.features)
    return found


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["embedded", "eps-prompts", "flow-prompts"])
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--evaluations", nargs="+", type=int, default=[5, 6, 8, 10, 15, 20, 25, 50])
    parser.add_argument("--schedule", choices=SCHEDULES, help="another than the paper's kind for the model")
    parser.add_argument("--fit-samples", type=int, default=SAMPLES)
    parser.add_argument("--test-samples", type=int, default=128)
    parser.add_argument("--published", action="store_true", help="only what is as published, nothing with a setting changed")
    parser.add_argument("--frechet", type=int, default=0, metavar="N", help="pictures of the embedded model to compare")
    parser.add_argument("--name", default="paper", help="of the files written")
    options = parsed(parser, "benchmarks.paper")
    plan = Plan(
        tuple(options.evaluations), (options.guidance,), (), options.fit_samples, options.test_samples, kept=options.references
    )
    solvers = tuple(solver for solver in SOLVERS if not (options.published and solver.differs))
    found: list[Row] = []
    for name in options.models:
        model = MODELS[name](torch.device("cpu"))
        for row in rows(model, options.guidance, plan, solvers, options.schedule, options.frechet):
            found.append(row)
            print(" ".join(f"{value:.4f}" if isinstance(value, float) else str(value) for value in row.values()), flush=True)
    content = measured(options, found)
    heads = [key for key in (*_KEYS, *(f"{key} Fréchet" for key in _KEYS)) if any(key in row for row in found)]
    body = [
        [
            *(str(row[key]) for key in ("model", "solver", "evaluations", "used")),
            *(f"{row[key]:.4f}" if key in row else "" for key in heads),
        ]
        for row in found
    ]
    said = [
        "# The paper's solvers and their D- versions",
        f"    {options.command}",
        f"{content['machine']}; {options.fit_samples} samples to fit on, {options.test_samples} to test on; guidance "
        f"{options.guidance:g}. Errors are RMS distances to the converged solution; see the command's `--help`.",
        table(["model", "solver", "evaluations", "used", *heads], body),
    ]
    if options.frechet:
        said.append(f"Fréchet distances of {options.frechet} pictures to as many true ones.")
    write(content, "\n\n".join(said) + "\n", options.output, options.name)
