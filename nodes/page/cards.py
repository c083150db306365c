"""What the page shows of parameters, as plain JSON: the card of a file, of one sampler, of what a fit has just made."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from dode.charts import Chart, charts_of
from dode.errors import DodeError
from dode.files.compatibility import Match
from dode.files.parameter_file import Entry, ParameterFile
from dode.files.words import details, gain, summary
from dode.fit.equivalent_steps import MOST, StepsSaved
from dode.recipe import start_of

from .. import library


def short_card(entry: Entry) -> dict[str, Any]:
    """One sampler in a list: what it is, for which model, and how much better."""
    parameters = entry.parameters
    return {
        "summary": summary(entry),
        "gain": gain(entry),
        "solver": parameters.method,
        "order": parameters.order,
        "steps": len(parameters.sigmas) - 1,
        "evaluations": entry.evaluations,
        "guidance": entry.guidance,
        "model": vars(entry.model),
    }


def differences(match: Match) -> list[dict[str, str]]:
    """What differs from the model at hand: in English words, and what the page needs to say it in others."""
    names = ("verdict", "key", "ours", "theirs", "words")
    return [{name: getattr(each, name) for name in names} for each in match.differences]


def problem(error: DodeError) -> dict[str, str]:
    """An error: its kind, which the page has words for in its languages, and what it says in English, without folders."""
    return {"kind": type(error).__name__, "error": library.without_folders(str(error))}


def entry_card(entry: Entry, match: Match | None = None, worth: StepsSaved | None = None) -> dict[str, Any]:
    """One sampler; ``match`` says how it fits the connected model, ``worth`` may know its errors after each step."""
    parameters, report = entry.parameters, entry.report
    steps = (worth.step_errors_base, worth.step_errors_distilled) if worth and worth.step_errors_base else None
    start = start_of(entry)
    card: dict[str, Any] = {
        **short_card(entry),
        "start": start.method,
        "own_levels": start.sigmas == parameters.sigmas,
        "charts": [_chart(chart) for chart in charts_of(entry, steps)],
        "report": None,
    }
    if report is not None:
        card["report"] = {
            "before": _number(report.error_base),
            "after": _number(report.error_distilled),
            "teacher": report.teacher.method,
            "teacher_error": _number(report.teacher_error),
            "samples": report.samples,
            "held_out": report.held_out,
            "seed": report.seed,
        }
    if match is not None:
        said = differences(match)
        card["match"] = {kind: [each for each in said if each["verdict"] == kind] for kind in ("hard", "soft")}
    return card


def _chart(chart: Chart) -> dict[str, Any]:
    series = [{"key": each.key, "number": each.number, "values": list(each.values)} for each in chart.series]
    rest = {"form": chart.form, "logarithmic": chart.logarithmic, "level": chart.level, "axis": chart.axis}
    return {"key": chart.key, "labels": list(chart.labels), "series": series, **rest}


def file_card(name: str, content: ParameterFile) -> dict[str, Any]:
    """A file and all of its samplers, each also as text."""
    words = {key: getattr(content, key) for key in ("author", "licence", "notes", "software")}
    return {
        "kind": "file",
        "file": name,
        **words,
        "entries": [{**entry_card(entry), "text": details(entry)} for entry in content.entries],
    }


def saved_card(saved: StepsSaved | None) -> dict[str, Any] | None:
    """How many plain steps a sampler is worth."""
    if saved is None:
        return None
    return {
        "samples": saved.samples,
        "method": saved.method,
        "steps": saved.steps,
        "most": MOST,
    }


def compared(columns: Iterable[tuple[str, int, float | None, Sequence[Any]]]) -> dict[str, Any]:
    """The pictures of base, distilled and reference: of each the solver, evaluations, error and the files of a batch."""
    rows = zip(("start", "learned", "reference"), columns, strict=True)
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
