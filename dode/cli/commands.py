"""What the commands of the command line do. Each takes the parsed options and returns the exit status."""

import os
import tempfile
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_tensors
from torch import Tensor

from dode.cli.check import check
from dode.cli.interrupt import stop_at_interrupt
from dode.cli.measure import Bench
from dode.cli.models import Model
from dode.cli.options import check_counts, model_of, table_text, warn_of_differences
from dode.cli.progress import Bars
from dode.cli.show import info, list_files
from dode.errors import FileExistsAlready, FitError, MethodError, ModelError, ParameterError, ParameterFileError
from dode.files import atomic_write
from dode.files.interpolation import interpolate
from dode.files.library import Keeper
from dode.files.parameter_file import (
    Entry,
    ParameterFile,
    check_capacity,
    check_name,
    check_words,
    load_parameters,
)
from dode.fit import ranks
from dode.fit.all_numbers import MODES, distill_students
from dode.fit.cost import cost_text
from dode.fit.paper import SAMPLES, SUBSTEPS, choices, distill_published
from dode.fit.plan import planned, usual_samples
from dode.fit.problem import Problem
from dode.fit.starts import SOLVERS, usual_grids
from dode.methods import METHODS, build_tableau, get_method, steps_within
from dode.recipe import COMMAND_LINE, recipe
from dode.report import Distillation
from dode.schedules import schedule, teacher_schedule
from dode.teacher import Teacher


def _grid(model: Model, name: str, method: str, order: int | None, evaluations: int) -> Any:
    steps = steps_within(method, evaluations, order)
    if steps == 0:
        raise MethodError(f"{method!r} needs more than {evaluations} evaluations for one step.")
    return schedule(name, steps, model.sigma_min, model.sigma_max)


def _summary(entries: list[Entry]) -> str:
    rows = [["solver", "NFE", "guidance", "error base", "distilled", "ratio"]]
    for entry in entries:
        report = entry.report
        assert report is not None
        rows.append(
            [
                entry.parameters.method,
                str(entry.evaluations),
                f"{entry.guidance:g}",
                f"{report.error_base:.4f}",
                f"{report.error_distilled:.4f}",
                f"{report.ratio:.2f}",
            ]
        )
    return table_text(rows)


def _refuse_existing(options: Namespace) -> None:
    """Before minutes of work, not after them."""
    if options.output.exists() and not options.overwrite:
        raise FileExistsAlready(f"{options.output} exists already. Choose another name, or add --overwrite.")
    folder = next(parent for parent in options.output.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ParameterFileError(f"{options.output} could not be written: {folder} is no folder that you may write to.")


def distill(options: Namespace) -> int:
    """Fit, save after each guidance scale, and print what the held-out samples say and what it took.

    In the modes that come from ``distill_students`` Ctrl-C stops and keeps what there is; a second one drops the fit.
    Started by ``torchrun`` it shares the samples out to all processes, and the first one saves and says what came of it.
    """
    with (
        ranks.from_environment() as rank,
        open(os.devnull, "w") as nowhere,
        redirect_stdout(nowhere) if rank else nullcontext(),
    ):
        options.device = ranks.device(options.device)
        return _distill(options)


def _distill(options: Namespace) -> int:
    check_name(options.output)
    _refuse_existing(options)
    if options.samples is None:
        guided = options.guidance[0] != 1
        options.samples = (
            SAMPLES
            if options.mode == "paper"
            else max(usual_samples(MODES[options.mode], n, guided=guided) for n in options.evaluations)
        )
    if options.samples < 2:
        raise FitError(f"--samples must be at least 2, got {options.samples}: one is fitted and one judges.")
    scales, budgets = tuple(dict.fromkeys(options.guidance)), sorted(set(options.evaluations))
    check_capacity([_rows(options, n) for n in budgets] * len(scales))
    words = ParameterFile((), options.author, options.licence, options.notes)
    check_words(words)
    keep, made = _keeper(options, words), list[Entry]()
    plans = [] if options.mode == "paper" else _plans(options, scales, budgets)
    counts: Counter[str] = Counter()
    results: dict[int, Distillation] = {}
    stopped = False
    with nullcontext(lambda: False) if options.mode == "paper" else stop_at_interrupt() as stop:
        for number, guidance in enumerate(scales):
            model = model_of(options, guidance)
            if options.mode == "paper":
                results = {n: _fit_paper(options, model, n, counts) for n in budgets}
            else:
                results = _fit_students(options, model, results, [] if number else plans, counts, stop)
            stopped = ranks.anyone(stop())
            settings = _settings(options, model) | ({"stopped_early": True} if stopped else {})
            how = recipe(COMMAND_LINE, settings, options.mode)
            made += [Entry(result.parameters, model.info, guidance, result.report, how) for result in results.values()]
            if results and ranks.number() == 0:
                keep(made)
            if stopped:
                break
    if not made:
        raise KeyboardInterrupt  # stopped before there was anything to keep
    print(_summary(made))
    judges = dict.fromkeys(entry.report.held_out for entry in made if entry.report)
    many = "s" * (list(judges) != [1])
    print(f"\nError: RMS distance to the teacher on {' or '.join(map(str, judges))} held-out sample{many}.")
    print(cost_text(counts))
    if stopped:
        print(_stopped_text(made, scales, budgets))
    print(keep.said())
    return 1 if keep.path is None and ranks.number() == 0 else 0


def _plans(options: Namespace, scales: Sequence[float], budgets: Sequence[int]) -> list[dict[str, int]]:
    """Planned evaluations by stage, for each guidance scale."""
    mode = {"freedom": MODES[options.mode], "samples": options.samples, "evaluations": budgets, "held_out": options.held_out}
    return [planned(**mode, guided=scale != 1, continued=number > 0) for number, scale in enumerate(scales)]


def _stopped_text(entries: Sequence[Entry], scales: Sequence[float], budgets: Sequence[int]) -> str:
    """What a fit that was stopped has kept, and what it has not come to."""
    done = [entry.guidance for entry in entries]
    lines = ["Stopped early: the best found so far was kept."]
    for scale in scales:
        left = [str(n) for n in budgets[done.count(scale) :]]
        if left:
            lines.append(f"Missing at guidance {scale:g}: {', '.join(left)} evaluations.")
    return "\n".join(lines)


def _keeper(options: Namespace, words: ParameterFile) -> Keeper:
    """What took long to make goes elsewhere rather than nowhere: under a number, if the name was taken since the fit began, and
    into the system's folder for temporary files, if the disk refuses."""
    elsewhere = Path(tempfile.gettempdir()) / options.output.name
    if options.overwrite:
        return Keeper([elsewhere], path=options.output, words=words)
    return Keeper([options.output, elsewhere], words=words)


def _rows(options: Namespace, evaluations: int) -> int:
    """Rows of the table that will be fitted; the solvers that are chosen among have one for each evaluation."""
    if options.method is None:
        return evaluations
    steps = steps_within(options.method, evaluations, options.order)
    return len(build_tableau(options.method, range(steps, -1, -1), options.order).rows) if steps else 1


def _settings(options: Namespace, model: Model) -> dict[str, Any]:
    """The options that a fit depends on, and what the model answered where they left it open."""
    names = ("mode", "method", "order", "evaluations", "schedule", "directions", "samples", "held_out", "teacher", "substeps")
    settings = {name: getattr(options, name) for name in (*names, "micro_batch", "seed", "guidance", "device")}
    named = [Path(path) for path in options.k_diffusion] if options.k_diffusion else None
    settings |= {"model": None if named else options.model, "k_diffusion": named, "shape": model.shape}
    settings |= {"classes": model.classes or None}
    if not options.guard:
        settings["guard"] = False
    if options.mode != "paper":
        settings["teacher_schedule"] = teacher_schedule(model.coordinate)
    return {**settings, "sigma_min": model.sigma_min, "sigma_max": model.sigma_max}


def _common(options: Namespace, model: Model) -> dict[str, Any]:
    """The arguments that both fits take."""
    return {
        "held_out": options.held_out,
        "micro_batch": options.micro_batch,
        "extra_args": model.extra_args,
        "groups": model.groups(options.samples),
        "device": model.device,
        "seed": options.seed,
    }


def _fit_paper(options: Namespace, model: Model, evaluations: int, counts: Counter[str]) -> Distillation:
    found = choices(
        options.method,
        order=options.order,
        directions=options.directions,
        prediction=model.info.prediction,
        coordinate=model.coordinate,
        teacher=options.teacher,
        substeps=SUBSTEPS if options.substeps is None else options.substeps,
    )
    sigmas = _grid(model, options.schedule or "karras", found[0].method, options.order, evaluations)
    with Bars(f"{found[0].method if len(found) == 1 else 'paper'} {evaluations} ") as bars:
        noise = model.noise(options.samples, options.seed, float(sigmas[0]))
        problem = Problem(model.denoiser, noise, **_common(options, model), progress=bars)
        result = distill_published(
            problem, sigmas, found, coordinate=model.coordinate, guard=options.guard, sigma_min=model.sigma_min
        )
    counts.update(bars.counts)
    return result


def _fit_students(
    options: Namespace,
    model: Model,
    before: dict[int, Distillation],
    plans: Sequence[Mapping[str, int]],
    counts: Counter[str],
    stop: Callable[[], bool],
) -> dict[int, Distillation]:
    """Results by evaluations, fewer if it was stopped. A scale goes on from what came out at the one before, so that those
    between interpolate."""
    if options.order is not None or options.directions is not None or not options.guard:
        raise FitError("--order, --directions and --no-guard belong to --mode paper; the other modes choose for themselves.")
    if not options.teacher and options.substeps is not None:
        raise FitError("--substeps needs --teacher, or --mode paper: the usual teacher finds out how many steps it takes.")
    teacher = None
    if options.teacher:
        substeps = 6 if options.substeps is None else options.substeps
        teacher = Teacher(options.teacher, substeps=substeps, coordinate=model.coordinate)

    def grids(steps: int) -> list[Any]:
        usual = usual_grids(steps, model.sigma_min, model.sigma_max, model.coordinate == "flow")
        return usual if options.schedule is None else [schedule(options.schedule, steps, model.sigma_min, model.sigma_max)]

    budgets = sorted(set(options.evaluations))
    with Bars(f"{options.mode} {','.join(map(str, budgets))} ", plans) as bars:
        try:
            results = distill_students(
                model.denoiser,
                model.noise(options.samples, options.seed, 1.0),
                evaluations=budgets,
                sigma_range=(model.sigma_min, model.sigma_max),
                coordinate=model.coordinate,
                mode=options.mode,
                solvers=(get_method(options.method).name,) if options.method else SOLVERS,
                grids=grids,
                continued=[before[n].parameters for n in budgets] if before else None,
                teacher=teacher,
                **_common(options, model),
                progress=bars,
                stop=stop,
            )
        except FitError:
            if not ranks.anyone(stop()):
                raise
            results = []  # stopped before there was anything to keep at this scale
    counts.update(bars.counts)
    return dict(zip(budgets, results, strict=False))  # fewer where it was stopped


def choose_entry(content: ParameterFile, evaluations: int, method: str | None = None, guidance: float | None = None) -> Entry:
    """The entry for a number of evaluations, and for a guidance scale if one is named, or what lies between two entries.

    Raises:
        ParameterError: there is none; the message says what there is.
    """
    name = get_method(method).name if method else None
    there = [e for e in content.entries if e.evaluations == evaluations and name in (None, e.parameters.method)]
    if there:
        return interpolate(there, guidance)
    known = ", ".join(f"{entry.parameters.method} {entry.evaluations}" for entry in content.entries)
    raise ParameterError(f"The file has no entry for {method or 'any solver'} at {evaluations} evaluations. It has: {known}.")


def sample(options: Namespace) -> int:
    """Sample and write latents or pictures."""
    if options.output.suffix not in (".safetensors", ".png"):
        raise ModelError(f"OUT must end in .safetensors or .png, got {options.output.name!r}.")
    _refuse_existing(options)
    check_counts(options)
    model = model_of(options)
    if options.parameters is None:
        method = options.method or "euler"
        sigmas = _grid(model, options.schedule, method, options.order, options.evaluations)
        tableau = build_tableau(method, sigmas, options.order, model.coordinate)
    else:
        content = load_parameters(options.parameters)
        entry = choose_entry(content, options.evaluations, options.method, options.guidance)
        warn_of_differences(entry, model, 1.0 if options.guidance is None else options.guidance)
        tableau = entry.parameters.tableau(strength=options.strength)
    latents = Bench(model, options.count, options.seed, options.micro_batch).run(tableau)
    _write(options.output, latents)
    print(f"{options.count} samples at {tableau.evaluations} evaluations: {options.output}")
    return 0


def _write(path: Path, latents: Tensor) -> None:
    if path.suffix == ".png":
        from dode.images import sheet

        if latents.ndim != 4 or latents.shape[1] != 3:
            raise ModelError(
                f"A picture sheet needs samples of shape (3, H, W), got {tuple(latents.shape[1:])}; write .safetensors."
            )
        rows = [("", batch) for batch in latents.split(8)]
        rows[-1] = ("", torch.cat([rows[-1][1], -torch.ones(len(rows[0][1]) - len(rows[-1][1]), *latents.shape[1:])]))
        sheet(rows, path, scale=3)
        return
    try:
        atomic_write.write(path, save_tensors({"latents": latents.contiguous()}), overwrite=True)
    except OSError as error:
        raise ParameterFileError(f"{path} could not be written: {error.strerror or error}.") from error


def plot(options: Namespace) -> int:
    """Draw a file's parameters and errors."""
    from dode.cli.plots import plot_entries

    content = load_parameters(options.file)
    options.output = options.output or options.file.with_suffix(".png")
    _refuse_existing(options)
    print(plot_entries(content.entries[:8], options.output))
    return 0


def methods(options: Namespace) -> int:
    """List the solvers."""
    for method in METHODS.values():
        orders = "/".join(map(str, method.convergence))
        print(f"{', '.join((method.name, *method.aliases)):16} order {orders:8} {method.source}")
    return 0


def demo(options: Namespace) -> int:
    """Run the demonstration."""
    from dode.cli.demo import run

    if options.samples < 8:
        raise FitError(f"--samples must be at least 8, got {options.samples}.")
    return run(options.output, options.samples, options.guidance)


COMMANDS: dict[str, Callable[[Namespace], int]] = {
    "demo": demo,
    "distill": distill,
    "sample": sample,
    "info": info,
    "check": check,
    "list": list_files,
    "plot": plot,
    "methods": methods,
}
