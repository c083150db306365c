"""Further questions to the fit: how many samples it needs, how good a teacher, and what it costs. Each gives a table."""

import argparse
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import psutil
import torch

from benchmarks.models.bench_models import MODELS, BenchModel
from benchmarks.quality.cells import Plan, Trial, fit, run_parameters, score, trial
from benchmarks.quality.report import table
from benchmarks.quality.studies.ablations import ablations
from benchmarks.quality.studies.parts import parts
from benchmarks.quality.studies.residual import residual
from benchmarks.quality.studies.transfer import transfer
from benchmarks.reports import measured
from dode.teacher import Teacher

Rows = Iterator[dict[str, Any]]
PROMPTS = (4, 8, 16, 32, 64)
SAMPLES = (8, 16, 32, 64, 128, 256, 512)
SUBSTEPS = (1, 2, 4, 6, 10, 20)
TEACHERS = ("dpmpp_3m", "ipndm")


def _fits(on: Trial, plan: Plan, label: str, values: tuple[Any, ...], settings: Callable[[Any], tuple[Plan, dict]]) -> Rows:
    """Errors of fits that differ in one setting, on the same test samples."""
    for mode in plan.modes:
        for value in values:
            changed, more = settings(value)
            began = time.time()
            results = fit(on.model, on.guidance, changed, mode, **more)
            seconds = time.time() - began
            for evaluations, result in zip(plan.evaluations, results, strict=True):
                found = score(run_parameters(on, result.parameters, evaluations), on.reference)
                judged = {"teacher to its half": result.report.teacher_error}
                row = {"model": on.model.name, "guidance": on.guidance, "NFE": evaluations, "mode": mode, label: value}
                yield {**row, "error": found["error"], "median": found["median"], **judged, "seconds of the whole fit": seconds}


def samples(model: BenchModel, guidance: float, plan: Plan, mode: str) -> Rows:
    """Error over the number of samples fitted on; quick mode stops at 64."""
    counts = tuple(n for n in SAMPLES if mode == "full" or n <= 64)
    yield from _fits(trial(model, guidance, plan), plan, "samples", counts, lambda n: (replace(plan, fit_samples=n), {}))


def prompts(model: BenchModel, guidance: float, plan: Plan, mode: str) -> Rows:
    """Error on new prompts over the number of prompts that the samples of the fit share."""
    counts = tuple(n for n in PROMPTS if n <= min(plan.fit_samples, len(model.fit_prompts)))
    at = trial(model, guidance, plan)
    yield from _fits(at, plan, "prompts", counts, lambda n: (replace(plan, fit_prompts=model.fit_prompts[:n]), {}))


def teacher(model: BenchModel, guidance: float, plan: Plan, mode: str) -> Rows:
    """Error over the teacher's solver and its substeps on a grid of ten steps."""
    counts = SUBSTEPS if mode == "full" else SUBSTEPS[3:5]
    values = tuple(f"{method} x {n}" for method in TEACHERS for n in counts)

    def settings(value: str) -> tuple[Plan, dict]:
        method, _, substeps = value.split()
        return plan, {"teacher": Teacher(method, substeps=int(substeps), coordinate=model.coordinate)}

    yield from _fits(trial(model, guidance, plan), plan, "teacher", values, settings)


class _Peak:
    """The most memory this process holds while the block runs, beyond what it held before: ``mebibytes``."""

    def __init__(self, device: torch.device):
        self.cuda, self.process, self.done = device.type == "cuda", psutil.Process(), threading.Event()
        self.mebibytes = 0.0

    def __enter__(self) -> "_Peak":
        self.start = self.process.memory_info().rss
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            self.start = torch.cuda.memory_allocated()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while not self.done.wait(0.005):
            if not self.cuda:
                self.mebibytes = max(self.mebibytes, (self.process.memory_info().rss - self.start) / 2**20)

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()
        if self.cuda:
            self.mebibytes = (torch.cuda.max_memory_allocated() - self.start) / 2**20


def cost(model: BenchModel, guidance: float, plan: Plan, mode: str) -> Rows:
    """Evaluations by stage for all students of one call, time outside the model, and memory beside one batch through it."""
    for fit_mode in plan.modes:
        inside = 0.0
        plain = model.fit_denoiser(guidance)

        def timed(x: torch.Tensor, sigma: torch.Tensor, labels: torch.Tensor) -> Any:
            nonlocal inside
            began = time.perf_counter()
            found = plain(x, sigma, labels)  # noqa: B023
            if x.is_cuda:
                torch.cuda.synchronize()
            inside += time.perf_counter() - began
            return found

        batch = torch.arange(min(32, plan.fit_samples))
        noise = model.noise(len(batch), 0) * model.sigma_max * 0.9
        with _Peak(model.device) as call, torch.no_grad():
            timed(
                noise,
                torch.full((len(batch),), model.sigma_max * 0.9, device=noise.device),
                **model.extra_args(model.fit_prompts)(batch),
            )
        inside = 0.0
        began = time.perf_counter()
        with _Peak(model.device) as whole:
            results = fit(model, guidance, plan, fit_mode, denoiser=timed)
        seconds = time.perf_counter() - began
        counted: dict[str, int] = {}
        for result in results:
            for stage, count in result.report.model_evaluations.items():
                # Two stages are each student's own; the others run once for all.
                before = counted.get(stage, 0)
                counted[stage] = before + count if stage in ("search", "refine") else max(before, count)
        yield {
            "model": model.name,
            "guidance": guidance,
            "mode": fit_mode,
            "students": len(results),
            **{f"evaluations per sample, {stage}": count / plan.fit_samples for stage, count in counted.items()},
            "evaluations per sample": sum(counted.values()) / plan.fit_samples,
            "seconds": seconds,
            "outside the model, %": 100 * (1 - inside / seconds),
            "memory of one call, MiB": call.mebibytes,
            "memory of the fit, MiB": whole.mebibytes,
        }


STUDIES: dict[str, Callable[[BenchModel, float, Plan, str], Rows]] = {
    "samples": samples,
    "prompts": prompts,
    "teacher": teacher,
    "cost": cost,
    "transfer": transfer,
    "ablations": ablations,
    "parts": parts,
    "residual": residual,
}


def run_study(options: argparse.Namespace, plan: Plan) -> tuple[dict[str, Any], str]:
    """One study over models and guidance scales: the report, as JSON and in Markdown."""
    study = STUDIES[options.study]
    rows: list[dict[str, Any]] = []
    for name in options.models:
        model = MODELS[name](torch.device(options.device))
        for guidance in plan.guidances:
            for row in study(model, guidance, plan, options.mode):
                rows.append(row)
                print(", ".join(f"{k} {_shown(v)}" for k, v in row.items()), flush=True)
    result = measured(options, rows, fit_samples=plan.fit_samples, test_samples=plan.test_samples)
    heads = list(dict.fromkeys(key for row in rows for key in row))
    text = [f"# Study: {options.study}", f"    {options.command}", study.__doc__ or ""]
    text.append(f"{result['machine']}; {plan.fit_samples} samples to fit on and {plan.test_samples} to test on.")
    text.append(table(heads, ([_shown(row.get(head, "")) for head in heads] for row in rows)))
    return result, "\n\n".join(text) + "\n"


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
