"""What the commands of the command line do. Each takes the parsed options and returns the exit status."""

import json
from argparse import Namespace
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_tensors
from torch import Tensor

from dode.correction import Parameters
from dode.distill import Distillation
from dode.distill import distill as fit
from dode.errors import FileExistsAlready, FitError, MethodError, ModelError, ParameterError, ParameterFileError
from dode.matching import compare, interpolate
from dode.measure import Bench, rms
from dode.methods import METHODS, build_tableau, get_method, steps_within
from dode.models import Model, load_model
from dode.parameter_file import Entry, ParameterFile, load_parameters, save_parameters
from dode.progress import Bars
from dode.schedules import schedule
from dode.students import SOLVERS, distill_students, usual_grids
from dode.tableau import Tableau
from dode.teacher import Teacher


def _model(options: Namespace, guidance: float | None = None) -> Model:
    """The model at a guidance scale, that of --guidance if there is no other."""
    asked = options.guidance if guidance is None else guidance
    return load_model(
        options.model,
        k_diffusion=options.k_diffusion,
        shape=options.shape,
        sigma_min=options.sigma_min,
        sigma_max=options.sigma_max,
        guidance=1.0 if asked is None else asked,
        device=options.device,
    )


def _grid(model: Model, name: str, method: str, order: int | None, evaluations: int) -> Any:
    steps = steps_within(method, evaluations, order)
    if steps == 0:
        raise MethodError(f"{method!r} needs more than {evaluations} evaluations for one step.")
    return schedule(name, steps, model.sigma_min, model.sigma_max)


def table_text(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(r, widths, strict=True)))
        for r in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


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


def distill(options: Namespace) -> int:
    """Fit, save, and print what the held-out samples say."""
    if options.output.suffix != ".safetensors":
        raise ParameterFileError(f"A parameter file's name must end in .safetensors, got {options.output.name!r}.")
    _refuse_existing(options)
    if options.samples < 2:
        raise FitError(f"--samples must be at least 2, got {options.samples}: one is fitted and one judges.")
    entries: list[Entry] = []
    results: dict[int, Distillation] = {}
    for guidance in dict.fromkeys(options.guidance):
        model = _model(options, guidance)
        if options.mode == "paper":
            results = {n: _fit_paper(options, model, n) for n in sorted(set(options.evaluations))}
        else:
            results = _fit_students(options, model, results)
        entries += [Entry(result.parameters, model.info, guidance, result.report) for result in results.values()]
    content = ParameterFile(tuple(entries), options.author, options.licence, options.notes)
    save_parameters(options.output, content, overwrite=options.overwrite)
    print(_summary(entries))
    print(
        f"\nError: RMS distance to the teacher on {entries[0].report.held_out} held-out samples." if entries[0].report else ""
    )
    print(f"Saved {options.output}")
    return 0


def _common(options: Namespace, model: Model) -> dict[str, Any]:
    """The arguments that both fits take."""
    return {
        "held_out": options.held_out,
        "micro_batch": options.micro_batch,
        "extra_args": model.extra_args,
        "device": model.device,
        "seed": options.seed,
    }


def _fit_paper(options: Namespace, model: Model, evaluations: int) -> Distillation:
    method = get_method(options.method or "euler")
    chosen = options.teacher or method.teacher
    same = get_method(chosen).name == method.name
    substeps = 10 if options.substeps is None else options.substeps
    sigmas = _grid(model, options.schedule or "karras", method.name, options.order, evaluations)
    with Bars(f"{method.name} {evaluations} ") as bars:
        return fit(
            model.denoiser,
            model.noise(options.samples, options.seed, float(sigmas[0])),
            sigmas,
            method=method.name,
            order=options.order,
            coordinate=model.coordinate,
            directions=options.directions,
            teacher=Teacher(chosen, options.order if same else None, substeps, model.coordinate),
            **_common(options, model),
            progress=bars,
        )


def _fit_students(options: Namespace, model: Model, before: dict[int, Distillation]) -> dict[int, Distillation]:
    """Results by evaluations. A scale goes on from what came out at the one before, so that those between interpolate."""
    if options.order is not None or options.directions is not None:
        raise FitError("--order and --directions belong to --mode paper; the other modes choose for themselves.")
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
    with Bars(f"{options.mode} {','.join(map(str, budgets))} ") as bars:
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
        )
    return dict(zip(budgets, results, strict=True))


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
    if options.count < 1 or options.micro_batch < 1:
        raise ModelError("--count and --micro-batch must be at least 1.")
    model = _model(options)
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


def warn_of_differences(entry: Entry, model: Model, guidance: float) -> None:
    """Refuse parameters of another kind of model; say what else differs."""
    match = compare(entry, model.info, guidance)
    if not match:
        raise ParameterError(f"These parameters belong to another kind of model: {'; '.join(match.hard)}.")
    for difference in match.soft:
        print(f"Note: {difference}.")


def _write(path: Path, latents: Tensor) -> None:
    if path.suffix == ".png":
        from dode.plots import sheet

        if latents.ndim != 4 or latents.shape[1] != 3:
            raise ModelError(
                f"A picture sheet needs samples of shape (3, H, W), got {tuple(latents.shape[1:])}; write .safetensors."
            )
        rows = [("", batch) for batch in latents.split(8)]
        rows[-1] = ("", torch.cat([rows[-1][1], -torch.ones(len(rows[0][1]) - len(rows[-1][1]), *latents.shape[1:])]))
        sheet(rows, path, scale=3)
        return
    try:
        path.write_bytes(save_tensors({"latents": latents.contiguous()}))
    except OSError as error:
        raise ParameterFileError(f"{path} could not be written: {error.strerror or error}.") from error


def info(options: Namespace) -> int:
    """Print everything a file says."""
    content = load_parameters(options.file)
    if options.json:
        described = [{**asdict(e), "evaluations": e.evaluations} for e in (replace(entry) for entry in content.entries)]
        for item in described:
            for name in ("values", "guidance"):
                table = item["parameters"][name]
                item["parameters"][name] = None if table is None else table.tolist()
        words = {name: getattr(content, name) for name in ("author", "licence", "notes", "software")}
        print(json.dumps({"file": str(options.file), **words, "entries": described}, indent=2))
        return 0
    print(f"{options.file}: {len(content.entries)} distilled sampler(s), written by {content.software or 'unknown software'}")
    for name in ("author", "licence", "notes"):
        if getattr(content, name):
            print(f"{name}: {getattr(content, name)}")
    for entry in content.entries:
        print("\n" + describe(entry))
    return 0


def describe(entry: Entry) -> str:
    """An entry in words."""
    p, m, r = entry.parameters, entry.model, entry.report
    kinds = [part for part in (m.family, m.prediction, f"{m.channels} channels" if m.channels else "") if part]
    lines = [
        f"D-{p.method} (order {p.order}), {entry.evaluations} evaluations, {p.directions} prediction, {p.coordinate}",
        f"  model     {m.name or 'unknown'} ({', '.join(kinds) or 'nothing known'})",
        f"  guidance  {'unknown' if entry.guidance is None else format(entry.guidance, 'g')}",
        f"  sigmas    {' '.join(f'{s:.4g}' for s in p.sigmas)}",
        *(f"  lambda {row + 1:<3}{' '.join(f'{v:+.4f}' for v in values)}" for row, values in enumerate(p.values)),
    ]
    if p.guidance is not None:
        lines += [f"  gamma {row + 1:<4}{' '.join(f'{v:+.4f}' for v in values)}" for row, values in enumerate(p.guidance)]
    if p.model_sigmas is not None:
        lines.append(f"  told      {' '.join(f'{s:.4g}' for s in p.model_sigmas)} (noise levels that the model is told)")
    if r is not None:
        t = r.teacher
        lines += [
            f"  teacher   {t.method}, {t.substeps} substeps a step (its own error {r.teacher_error:.4g})",
            f"  samples   {r.samples}, {r.held_out} of them held out, seed {r.seed}",
            f"  error     {r.error_base:.4g} base, {r.error_distilled:.4g} distilled, ratio {r.ratio:.2f} (held out)",
            f"  guard     kept {' '.join(f'{k:g}' for k in r.kept)} of the rows' corrections, {r.strength:g} of the whole",
            f"  cost      {', '.join(f'{count} {stage}' for stage, count in r.model_evaluations.items())} evaluations",
        ]
    return "\n".join(lines)


def check(options: Namespace) -> int:
    """Measure a file's claim again on fresh noise."""
    content = load_parameters(options.file)
    if options.count < 1 or options.micro_batch < 1:
        raise ModelError("--count and --micro-batch must be at least 1.")
    models: dict[float, Model] = {}
    rows = [["solver", "NFE", "base", "distilled", "ratio", "claimed"]]
    worse = 0
    for entry in content.entries:
        scale = options.guidance or entry.guidance or 1.0
        model = models[scale] if scale in models else models.setdefault(scale, _model(options, scale))
        warn_of_differences(entry, model, scale)
        if entry.report is not None and entry.report.seed == options.seed:
            raise FitError(f"Seed {options.seed} is the one that was fitted; choose another, so that the noise is fresh.")
        bench = Bench(model, options.count, options.seed, options.micro_batch)
        base, distilled = _errors(bench, entry.parameters, _reference(entry))
        worse += distilled > base
        claimed = entry.report.error_distilled / entry.report.error_base if entry.report and entry.report.error_base else None
        cells = [
            f"{base:.4f}",
            f"{distilled:.4f}",
            f"{distilled / base if base else 1:.2f}",
            "" if claimed is None else f"{claimed:.2f}",
        ]
        rows.append([entry.parameters.method, str(entry.evaluations), *cells])
    print(table_text(rows))
    print(f"\nError: RMS distance to the file's teacher on {options.count} fresh samples, seed {options.seed}.")
    if worse:
        print(f"{worse} of {len(content.entries)} distilled samplers are worse than their base on this model.")
    return 1 if worse else 0


def _reference(entry: Entry) -> Tableau:
    teacher = entry.report.teacher if entry.report else Teacher(coordinate=entry.parameters.coordinate)
    return teacher.tableau(entry.parameters.base().levels)


def _errors(bench: Bench, parameters: Parameters, reference: Tableau) -> tuple[float, float]:
    with Bars(f"{parameters.method} ") as bars:
        tables = [reference, parameters.base(), parameters.tableau()]
        total, done = bench.count * sum(t.evaluations for t in tables), 0

        def tick(evaluations: int) -> None:
            nonlocal done
            done += evaluations
            bars("check", done, total)

        target, base, distilled = (bench.run(t, tick) for t in tables)
    return rms(base, target), rms(distilled, target)


def plot(options: Namespace) -> int:
    """Draw a file's parameters and errors."""
    from dode.plots import plot_entries

    content = load_parameters(options.file)
    print(plot_entries(content.entries[:8], options.output or options.file.with_suffix(".png")))
    return 0


def methods(options: Namespace) -> int:
    """List the solvers."""
    for method in METHODS.values():
        orders = "/".join(map(str, method.convergence))
        print(f"{', '.join((method.name, *method.aliases)):16} order {orders:8} {method.source}")
    return 0


def demo(options: Namespace) -> int:
    """Run the demonstration."""
    from dode.demo.run import run

    if options.samples < 8:
        raise FitError(f"--samples must be at least 8, got {options.samples}.")
    return run(options.output, options.samples, options.guidance)
