"""Measuring again what a parameter file claims, on a model."""

from argparse import Namespace
from dataclasses import dataclass

from dode.cli.measure import Bench
from dode.cli.models import Model
from dode.cli.options import check_counts, model_of, table_text, warn_of_differences
from dode.cli.progress import Bars
from dode.errors import FitError
from dode.files.compatibility import compare
from dode.files.parameter_file import Entry, load_parameters
from dode.fit.held_out import rms, split
from dode.fit.plan import FURTHER_SCALE
from dode.recipe import teacher_grid, was_made_here
from dode.report import Report
from dode.tableau import Tableau
from dode.teacher import Teacher

_TOLERANCE = 0.05  # relative, of a claim on the very samples that it was made on: another device or precision


@dataclass(frozen=True)
class _Found:
    """Errors: of the base and the distilled sampler on fresh noise, and of the latter on the noise that judged the fit."""

    base: float
    distilled: float
    again: float | None


def check(options: Namespace) -> int:
    """Measure a file's claims again: on fresh noise, and where the file says how, on the noise that judged the fit."""
    content = load_parameters(options.file)
    check_counts(options)
    models: dict[float, Model] = {}
    rows = [["solver", "NFE", "guidance", "base", "distilled", "ratio", "claimed", "again"]]
    worse = wrong = 0
    for entry in content.entries:
        scale = options.guidance or entry.guidance or 1.0
        model = models[scale] if scale in models else models.setdefault(scale, model_of(options, scale))
        warn_of_differences(entry, model, scale)
        if entry.report is not None and entry.report.seed == options.seed:
            raise FitError(f"Seed {options.seed} is the one that was fitted; choose another, so that the noise is fresh.")
        found = _measure(entry, model, scale, options)
        claimed = None if entry.report is None else entry.report.error_distilled
        worse += found.distilled > found.base
        wrong += found.again is not None and claimed is not None and abs(found.again - claimed) > _TOLERANCE * claimed
        ratio = found.distilled / found.base if found.base else 1.0
        errors = [found.base, found.distilled, claimed, found.again]
        cells = ["" if error is None else f"{error:.4f}" for error in errors]
        rows.append([entry.parameters.method, str(entry.evaluations), f"{scale:g}", *cells[:2], f"{ratio:.2f}", *cells[2:]])
    print(table_text(rows))
    print(f"\nError: RMS distance to the file's teacher on {options.count} fresh samples, seed {options.seed}.")
    print("Claimed: the distilled sampler's error in the file. Again: the same, measured now on the same held-out samples,")
    print("where the file says how they were made and this is the model it was fitted on.")
    if worse:
        print(f"{worse} of {len(content.entries)} distilled samplers are worse than their base on this model.")
    if wrong:
        print(f"{wrong} of {len(content.entries)} claims do not hold: the errors are others, by more than {_TOLERANCE:.0%}.")
    return 1 if worse or wrong else 0


def _measure(entry: Entry, model: Model, scale: float, options: Namespace) -> _Found:
    parameters, report = entry.parameters, entry.report
    bench = Bench(model, options.count, options.seed, options.micro_batch)
    reference = _reference(entry)
    tables = [reference, parameters.base(), parameters.tableau()]
    again = None
    if report is not None and was_made_here(entry) and not compare(entry, model.info, scale).soft:
        held = _judges(entry, report, model)
        again = Bench(model, _samples(entry, report), report.seed, options.micro_batch, tuple(held)) if held else None
    total = bench.samples * sum(t.evaluations for t in tables)
    total += again.samples * (tables[0].evaluations + tables[2].evaluations) if again else 0
    done = 0

    with Bars(f"{parameters.method} ") as bars:

        def tick(evaluations: int) -> None:
            nonlocal done
            done += evaluations
            bars("check", done, total)

        target, base, distilled = (bench.run(table, tick) for table in tables)
        repeated = None if again is None else rms(again.run(tables[2], tick), again.run(tables[0], tick))
    return _Found(rms(base, target), rms(distilled, target), repeated)


def _judges(entry: Entry, report: Report, model: Model) -> list[int]:
    """The samples that judged the fit; none if the file's recipe and its report do not agree on how many they were."""
    part = entry.recipe.get("held_out")
    if not (isinstance(part, float) and 0 < part < 1):
        return []
    samples = _samples(entry, report)
    groups = model.groups(samples) if entry.recipe.get("classes") == model.classes else None
    held, _ = split(samples, part, 1, report.seed, groups)
    if report.samples < samples:
        held = held[::FURTHER_SCALE]
    return held if len(held) == report.held_out else []


def _samples(entry: Entry, report: Report) -> int:
    """The samples that the first guidance scale was fitted on; a further one took part of them."""
    told = entry.recipe.get("samples")
    return told if isinstance(told, int) else report.samples


def _reference(entry: Entry) -> Tableau:
    """The file's teacher, on the grid that it ran on."""
    teacher = entry.report.teacher if entry.report else Teacher(coordinate=entry.parameters.coordinate)
    lowest = entry.recipe.get("sigma_min")
    return teacher.tableau(teacher_grid(entry), lowest if isinstance(lowest, float) else 0.0)
