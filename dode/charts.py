"""What there is to see of a distilled sampler, as data for whoever draws: ComfyUI's page, Pillow, matplotlib.

>>> import numpy as np
>>> from dode.correction import Parameters
>>> found = Parameters("euler", 1, "data", (10.0, 3.0, 1.0, 0.0), np.array([[0.0], [0.1], [0.2]]))
>>> [(chart.title, chart.series[-1].values) for chart in charts_of(Entry(found))][1]
('learned correction λ of each update', (0.0, 0.1, 0.2))
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dode.files.parameter_file import Entry
from dode.recipe import start_of
from dode.tableau import Array

_NAMES = {"start": "undistilled", "learned": "distilled", "tap": "λ"}


@dataclass(frozen=True)
class Series:
    """One line, or the bars of one colour.

    Attributes:
        key: "start" is the undistilled sampler, "learned" the distilled one, "tap" one of several numbers of a row.
        values: one for each label; None where there is none.
        number: of the tap, from 1; 0 for the others.
    """

    key: str
    values: tuple[float | None, ...]
    number: int = 0

    @property
    def name(self) -> str:
        """For a legend, in English."""
        return f"{_NAMES[self.key]}{self.number or ''}"


@dataclass(frozen=True)
class Chart:
    """A chart's data.

    Attributes:
        key: "error", "sigmas", "guidance" or "lambda".
        form: lines through points, or bars from 0.
        labels: what stands under the points or groups of bars.
        series: lines or bars, one value for each label.
        logarithmic: whether the vertical axis is.
        level: a height for a line across; for "guidance" the scale that the user sets.
        axis: what the labels number: "step" of the trajectory, "update" of the solver's table; "" for a single group.
    """

    key: Literal["error", "sigmas", "guidance", "lambda"]
    form: Literal["lines", "bars"]
    labels: tuple[str, ...]
    series: tuple[Series, ...]
    logarithmic: bool = False
    level: float | None = None
    axis: Literal["step", "update", ""] = "step"

    @property
    def title(self) -> str:
        """In English."""
        titles = {
            "error": "RMS distance to the teacher, held out",
            "sigmas": "noise levels σ",
            "guidance": "guidance scale of each update",
            "lambda": "learned correction λ of each update",
        }
        return titles[self.key]


def charts_of(entry: Entry, step_errors: tuple[Sequence[float], Sequence[float]] | None = None) -> list[Chart]:
    """All charts that there are data for: errors, noise levels, guidance if it was learned, λ.

    Args:
        step_errors: errors after each step, of the undistilled and of the distilled sampler, where those of the report are to
            be replaced; a report may have those of the end alone.
    """
    report = entry.report
    found = [_sigmas(entry)]
    if report is not None:
        found.insert(0, _errors(entry, *(step_errors or (report.step_errors_base, report.step_errors_distilled))))
    scales = guidance_scales(entry)
    if scales is not None:
        learned = Series("learned", tuple(scales.tolist()))
        found.append(Chart("guidance", "bars", _numbers(len(scales)), (learned,), level=entry.guidance, axis="update"))
    values = entry.parameters.values
    used = [tap for tap in range(values.shape[1]) if tap == 0 or values[:, tap].any()]
    taps = [Series("tap", tuple(values[:, tap].tolist()), tap + 1 if len(used) > 1 else 0) for tap in used]
    return [*found, Chart("lambda", "bars", _numbers(len(values)), tuple(taps), axis="update")]


def guidance_scales(entry: Entry) -> Array | None:
    """The guidance scale that each update of the table amounts to, (rows,): the one that the user sets, and what was learned on
    top; None where nothing was, or where the file does not say at which scale."""
    learned = entry.parameters.guidance
    if learned is None or not np.any(learned) or entry.guidance is None:
        return None
    return entry.guidance + learned.sum(axis=1)


def _errors(entry: Entry, before: Sequence[float], after: Sequence[float]) -> Chart:
    series = (Series("start", _finite(before)), Series("learned", _finite(after)))
    if len(before) == 1:
        return Chart("error", "bars", ("",), series, axis="")
    last = len(entry.parameters.base().sigmas) - 1
    labels = tuple(str(last - len(before) + i + 1) for i in range(len(before)))
    return Chart("error", "lines", labels, series, logarithmic=True)


def _sigmas(entry: Entry) -> Chart:
    own, start = (tuple(s for s in p.sigmas if s > 0) for p in (entry.parameters, start_of(entry)))
    series = [Series("learned", own)]
    if start != own:
        count = max(len(own), len(start))
        start, own = (levels + (None,) * (count - len(levels)) for levels in (start, own))
        series = [Series("start", start), Series("learned", own)]
    return Chart("sigmas", "lines", _numbers(len(own)), tuple(series), logarithmic=True)


def _numbers(count: int) -> tuple[str, ...]:
    return tuple(str(number + 1) for number in range(count))


def _finite(values: Sequence[float]) -> tuple[float | None, ...]:
    return tuple(float(v) if math.isfinite(v) else None for v in values)
