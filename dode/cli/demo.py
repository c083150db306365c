"""The demonstration: distill on the embedded model, measure on fresh noise, draw what came out."""

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dode.cli.measure import Bench
from dode.cli.models import Model, load_model
from dode.cli.options import table_text
from dode.cli.plots import plot_entries
from dode.cli.progress import Bars
from dode.cli.threads import use_fastest
from dode.files.parameter_file import Entry, ParameterFile, save_parameters
from dode.fit.all_numbers import distill_students
from dode.fit.distill import distill
from dode.fit.held_out import rms
from dode.images import pyplot, sheet
from dode.methods import METHODS, build_tableau, steps_within
from dode.schedules import schedule
from dode.tableau import Tableau
from dode.teacher import Teacher

BUDGETS = (4, 5, 6, 8, 10)
PAPER, BALANCED = "D-ODE (paper)", "D-ODE balanced"
_SOLVER = "ipndm"  # that mode paper distills
SCHEDULES = ("karras", "exponential")
TEST_SEED, TEST_SAMPLES = 1000, 24
SHOWN, SHOWN_AT = [1, 3, 4], (4, 6, 8)  # a sailboat, a house and a face, at so many evaluations
RANKED, FINALISTS = 4, 3
REFERENCE_STEPS = 100


@dataclass(frozen=True)
class _Result:
    """One solver at one number of evaluations: its samples and their distance to the reference."""

    label: str
    samples: Tensor
    error: float


def _paper(model: Model, samples: int, guidance: float) -> list[Entry]:
    """One λ a row on a given solver and schedule, in closed form, for each number of evaluations."""
    entries: list[Entry] = []
    for budget in BUDGETS:
        sigmas = schedule("karras", steps_within(_SOLVER, budget), model.sigma_min, model.sigma_max)
        with Bars(f"{PAPER} {budget:2} NFE ") as bars:
            result = distill(
                model.denoiser,
                model.noise(samples, 0, float(sigmas[0])),
                sigmas,
                method=_SOLVER,
                teacher=Teacher(_SOLVER, substeps=10),
                extra_args=model.extra_args,
                micro_batch=16,
                progress=bars,
            )
        entries.append(Entry(result.parameters, model.info, guidance, result.report))
    return entries


def _balanced(model: Model, samples: int, guidance: float) -> list[Entry]:
    """All numbers of a sampler at once, for all numbers of evaluations from one teacher run."""
    with Bars(f"{BALANCED} ") as bars:
        results = distill_students(
            model.denoiser,
            model.noise(samples, 0, 1.0),
            evaluations=BUDGETS,
            sigma_range=(model.sigma_min, model.sigma_max),
            extra_args=model.extra_args,
            micro_batch=16,
            progress=bars,
        )
    return [Entry(result.parameters, model.info, guidance, result.report) for result in results]


def _undistilled(model: Model, budget: int) -> list[tuple[str, Tableau]]:
    found: list[tuple[str, Tableau]] = []
    for method in METHODS.values():
        for order in method.convergence:
            steps = steps_within(method.name, budget, order)
            for name in SCHEDULES if steps else ():
                grid = schedule(name, steps, model.sigma_min, model.sigma_max)
                several = len(method.convergence) > 1
                found.append(
                    (f"{method.name}{f'({order})' if several else ''} {name}", build_tableau(method.name, grid, order))
                )
    return found


def run(output: Path, samples: int, guidance: float) -> int:
    """Run all of it and write into a folder; returns the exit status."""
    started = time.time()
    pyplot()
    output.mkdir(parents=True, exist_ok=True)
    model = load_model(guidance=guidance)
    probe = model.noise(16, 0, 1.0)
    with torch.no_grad():
        threads = use_fastest(lambda: model.denoiser(probe, torch.ones(16), **model.extra_args(torch.arange(16))))
    print(f"The fastest here: {threads} thread{'s' * (threads > 1)}.", flush=True)
    print(f"Distilling {PAPER} and {BALANCED} at {BUDGETS} evaluations on {samples} noise samples.", flush=True)
    entries = {PAPER: _paper(model, samples, guidance), BALANCED: _balanced(model, samples, guidance)}
    everything = [entry for found in entries.values() for entry in found]
    file = save_parameters(
        output / "demo.safetensors", ParameterFile(tuple(everything), notes="The demo's samplers."), overwrite=True
    )

    reference_table = build_tableau("heun", schedule("karras", REFERENCE_STEPS, model.sigma_min, model.sigma_max))
    candidates = {budget: _undistilled(model, budget) for budget in BUDGETS}
    count = sum(len(c) for c in candidates.values())
    print(
        f"Measuring on {TEST_SAMPLES} fresh noise samples, against {reference_table.evaluations} evaluations of Heun.",
        flush=True,
    )
    print(
        f"Undistilled: {count} pairs of solver and schedule, ranked on {RANKED} samples, the best {FINALISTS} on all.",
        flush=True,
    )
    tables = [reference_table, *(e.parameters.tableau() for e in everything)]
    plain = [t for c in candidates.values() for _, t in c]
    total = TEST_SAMPLES * (sum(t.evaluations for t in tables) + FINALISTS * sum(BUDGETS))
    total += RANKED * sum(t.evaluations for t in plain)
    with Bars("") as bars:
        done = 0

        def tick(evaluations: int) -> None:
            nonlocal done
            done += evaluations
            bars("measure", done, max(total, done))

        bench, few = Bench(model, TEST_SAMPLES, TEST_SEED), Bench(model, RANKED, TEST_SEED)
        reference = bench.run(reference_table, tick)

        def measure(label: str, tableau: Tableau) -> _Result:
            result = bench.run(tableau, tick)
            return _Result(label, result, rms(result, reference))

        shown: dict[int, dict[str, _Result]] = {}
        for i, budget in enumerate(BUDGETS):
            ranked = sorted(candidates[budget], key=lambda c: rms(few.run(c[1], tick), reference[:RANKED]))
            shown[budget] = {
                "base": measure(f"{_SOLVER} karras", entries[PAPER][i].parameters.base()),
                **{name: measure(name, found[i].parameters.tableau()) for name, found in entries.items()},
                "best": min((measure(*c) for c in ranked[:FINALISTS]), key=lambda r: r.error),
            }

    rows = [["NFE", f"{_SOLVER} karras", *entries, "best undistilled", ""]]
    for budget, results in shown.items():
        best = results["best"]
        rows.append([str(budget), *(f"{results[key].error:.4f}" for key in ("base", *entries, "best")), best.label])
    print(f"\nRMS distance to the reference, {TEST_SAMPLES} fresh samples, guidance {guidance:g}:\n\n{table_text(rows)}\n")
    pictures = _sheet(shown, reference, output / "demo_sheet.png")
    files = {PAPER: "demo_paper.png", BALANCED: "demo_balanced.png"}
    plots = [plot_entries(entries[name], output / file) for name, file in files.items()]
    print(f"Parameters     {file.resolve()}")
    print(f"Picture sheet  {pictures.resolve()}")
    for plot in plots:
        print(f"λ and errors   {plot.resolve()}")
    print(f"Done in {time.time() - started:.0f} s.")
    return 0


def _sheet(shown: dict[int, dict[str, _Result]], reference: Tensor, path: Path) -> Path:
    """A row a sampler; a group of columns a number of evaluations, with the same few pictures in each."""
    labels = {"best": "best undistilled", PAPER: PAPER, BALANCED: BALANCED}
    rows = [(label, torch.cat([shown[budget][key].samples[SHOWN] for budget in SHOWN_AT])) for key, label in labels.items()]
    rows.append(("reference", torch.cat([reference[SHOWN]] * len(SHOWN_AT))))
    headings = [f"{budget} evaluations" for budget in SHOWN_AT]
    return sheet(rows, path, "The same noise by each sampler", headings, scale=4)
