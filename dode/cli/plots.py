"""What was learned, and what it is worth, as charts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dode.charts import Chart, charts_of
from dode.files.parameter_file import Entry
from dode.images import pyplot


def label_of(entry: Entry) -> str:
    p = entry.parameters
    return f"D-{p.method} {entry.evaluations} NFE"


def plot_entries(entries: Sequence[Entry], path: Path) -> Path:
    """The charts of ``dode.charts``, one column an entry, written as PNG."""
    plt = pyplot()
    columns = [charts_of(entry) for entry in entries]
    there = {chart.key for charts in columns for chart in charts}
    keys = [key for key in ("error", "sigmas", "guidance", "lambda") if key in there]
    size = (3.1 * len(entries) + 0.6, 2.7 * len(keys))
    figure, axes = plt.subplots(len(keys), len(entries), figsize=size, squeeze=False, layout="constrained")
    for column, (entry, charts) in enumerate(zip(entries, columns, strict=True)):
        for row, key in enumerate(keys):
            chart = next((each for each in charts if each.key == key), None)
            if chart is None:
                axes[row, column].set_axis_off()
            else:
                _draw(axes[row, column], chart)
        axes[0, column].set_title(f"{label_of(entry)}\n{axes[0, column].get_title()}", fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _draw(axis: Any, chart: Chart) -> None:
    places, width = range(len(chart.labels)), 0.8 / len(chart.series)
    for number, series in enumerate(chart.series):
        colour = "0.5" if series.key == "start" else f"C{max(series.number - 1, 0)}"
        values = [float("nan") if value is None else value for value in series.values]
        if chart.form == "lines":
            axis.plot(places, values, "o-", color=colour, label=series.name)
        else:
            left = [place + (number - (len(chart.series) - 1) / 2) * width for place in places]
            axis.bar(left, values, width, color=colour, label=series.name)
    if chart.form == "bars":
        axis.axhline(chart.level or 0, color="0.5", linewidth=0.8)
    if chart.logarithmic:
        axis.set_yscale("log")
    if 1 < len(chart.series) <= 8:
        axis.legend(fontsize=7)
    axis.set_title(chart.title, fontsize=8)
    axis.set(xlabel=chart.axis, xticks=list(places), xticklabels=chart.labels)
