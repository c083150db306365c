"""What the page shows of parameters, as plain JSON: the card of a file, of one sampler, of what a fit has just made."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from dode.files.compatibility import Match
from dode.files.parameter_file import Entry, ParameterFile
from dode.files.words import gain, summary
from dode.fit.equivalent_steps import MOST, StepsSaved


def entry_card(entry: Entry, match: Match | None = None) -> dict[str, Any]:
    """One sampler; ``match`` says how it fits the connected model."""
    parameters, report, model = entry.parameters, entry.report, entry.model
    card: dict[str, Any] = {
        "summary": summary(entry),
        "gain": gain(entry),
        "solver": parameters.method,
        "order": parameters.order,
        "steps": len(parameters.sigmas) - 1,
        "evaluations": entry.evaluations,
        "guidance": entry.guidance,
        "model": {"name": model.name, "family": model.family, "prediction": model.prediction, "channels": model.channels},
        "sigmas": list(parameters.sigmas),
        "lambda": parameters.values.tolist(),
        "gamma": None if parameters.guidance is None else np.asarray(parameters.guidance).tolist(),
        "report": None,
    }
    if report is not None:
        card["report"] = {
            "before": _number(report.error_base),
            "after": _number(report.error_distilled),
            "steps_before": [_number(v) for v in report.step_errors_base],
            "steps_after": [_number(v) for v in report.step_errors_distilled],
            "teacher": report.teacher.method,
            "teacher_error": _number(report.teacher_error),
            "samples": report.samples,
            "held_out": report.held_out,
            "seed": report.seed,
        }
    if match is not None:
        card["match"] = {"hard": list(match.hard), "soft": list(match.soft)}
    return card


def file_card(name: str, content: ParameterFile) -> dict[str, Any]:
    """A file and all of its samplers."""
    words = {key: getattr(content, key) for key in ("author", "licence", "notes", "software")}
    return {"kind": "file", "file": name, **words, "entries": [entry_card(entry) for entry in content.entries]}


def saved_card(saved: StepsSaved | None) -> dict[str, Any] | None:
    """How many plain steps a sampler is worth."""
    if saved is None:
        return None
    return {
        "samples": saved.samples,
        "steps_before": [_number(v) for v in saved.step_errors_base],
        "steps_after": [_number(v) for v in saved.step_errors_distilled],
        "method": saved.method,
        "steps": saved.steps,
        "most": MOST,
    }


def compared(columns: Iterable[tuple[str, int, float | None, Sequence[Any]]]) -> dict[str, Any]:
    """The pictures of base, distilled and reference: of each the solver, evaluations, error and the files of a batch."""
    rows = zip(("before", "after", "reference"), columns, strict=True)
    return {
        "kind": "compared",
        "columns": [
            {
                "key": key,
                "solver": solver,
                "evaluations": n,
                "error": None if error is None else _number(error),
                "pictures": files,
            }
            for key, (solver, n, error, files) in rows
        ],
    }


def workflow_id(extra_pnginfo: Any) -> str | None:
    """Which of the page's workflows a run belongs to: node ids are the same in many."""
    workflow = extra_pnginfo.get("workflow") if isinstance(extra_pnginfo, dict) else None
    return workflow.get("id") if isinstance(workflow, dict) else None


def _number(value: float) -> float | None:
    """JSON, as browsers read it, has no NaN and no infinity."""
    return float(value) if math.isfinite(value) else None
