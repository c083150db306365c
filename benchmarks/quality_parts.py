"""What each kind of number that the fit may move is worth: balanced mode, with one kind taken away or added."""

from collections.abc import Iterator
from typing import Any

from benchmarks.models import BenchModel
from benchmarks.quality_cells import Plan, fit, run_parameters, score, trial

CHANGES: dict[str, dict[str, Any]] = {
    "balanced": {},
    "one difference a row": {"taps": 1},
    "noise levels fixed": {"grid": False, "start": False},
    "first noise level fixed": {"start": False},
    "no guidance channel": {"guidance": 0},
    "true noise levels told": {"model_sigmas": False},
    "noise levels alone": {"taps": 0, "guidance": 0, "model_sigmas": False},
    "differences alone": {"grid": False, "start": False, "guidance": 0, "model_sigmas": False},
    "one start": {"starts": 1},
    "derivatives more often": {"iterations": 3},
}


def parts(model: BenchModel, guidance: float, plan: Plan, mode: str) -> Iterator[dict[str, Any]]:
    """What each kind of number that the fit may move is worth: the error on test samples, and the change of balanced mode's."""
    from dode.numbers import Freedom

    on = trial(model, guidance, plan)
    whole: dict[int, float] = {}
    for name, change in CHANGES.items():
        if "guidance" in change and guidance == 1 and len(change) == 1:
            continue
        results = fit(model, guidance, plan, Freedom(**change))
        for evaluations, result in zip(plan.evaluations, results, strict=True):
            error = score(run_parameters(on, result.parameters, evaluations), on.reference)["error"]
            whole.setdefault(evaluations, error)
            row = {"model": model.name, "guidance": guidance, "NFE": evaluations, "fit": name, "error": error}
            yield {**row, "to balanced": error / whole[evaluations]}
