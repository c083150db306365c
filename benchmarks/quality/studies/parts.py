"""What each part of the fit is worth: balanced mode, with one taken away or added."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from benchmarks.models.bench_models import BenchModel
from benchmarks.quality.cells import Plan, fit, run_each, score, trial
from dode.fit.all_numbers import MODES
from dode.fit.free_parameters import Freedom

CHANGES: dict[str, dict[str, Any]] = {
    "balanced": {},
    "one difference a row": {"taps": 1},
    "noise levels fixed": {"grid": False, "start": False},
    "first noise level fixed": {"start": False},
    "no guidance channel": {"guidance_taps": 0},
    "true noise levels told": {"model_sigmas": False},
    "noise levels alone": {"taps": 0, "guidance_taps": 0, "model_sigmas": False},
    "differences alone": {"grid": False, "start": False, "guidance_taps": 0, "model_sigmas": False},
    "one start": {"starts": 1},
    "derivatives more often": {"again": 1},
    "mode best": asdict(MODES["best"]),
    "judged by samples of all classes": {"groups": None},
}


def parts(model: BenchModel, guidance: float, plan: Plan, mode: str) -> Iterator[dict[str, Any]]:
    """What each part of the fit is worth: the error on test samples, and the change of balanced mode's."""
    on = trial(model, guidance, plan)
    whole: dict[int, float] = {}
    for name, change in CHANGES.items():
        if ("guidance_taps" in change and guidance == 1 and len(change) == 1) or ("groups" in change and not plan.rotation):
            continue
        other = {key: value for key, value in change.items() if key == "groups"}
        freedom = Freedom(**{key: value for key, value in change.items() if key not in other})
        turns = [fit(model, guidance, replace(plan, fit_prompts=fitted), freedom, **other) for _, fitted in plan.turns(model)]
        for evaluations, results in zip(plan.evaluations, zip(*turns, strict=True), strict=True):
            samples = run_each(on, plan, [result.parameters for result in results], evaluations)
            error = score(samples, on.reference)["error"]
            whole.setdefault(evaluations, error)
            row = {"model": model.name, "guidance": guidance, "NFE": evaluations, "fit": name, "error": error}
            yield {**row, "to balanced": error / whole[evaluations]}
