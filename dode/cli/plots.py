"""What was learned, and what it is worth, as charts."""

from collections.abc import Sequence
from pathlib import Path

from dode.files.parameter_file import Entry
from dode.images import pyplot


def label_of(entry: Entry) -> str:
    p = entry.parameters
    return f"D-{p.method} {entry.evaluations} NFE"


def plot_entries(entries: Sequence[Entry], path: Path) -> Path:
    """λ and γ per row, and the held-out error of base and distilled solver: one column an entry, written as PNG.

    The error is that after each step, or at the end where only that was measured.
    """
    plt = pyplot()
    figure, axes = plt.subplots(2, len(entries), figsize=(3.1 * len(entries) + 0.6, 5.4), squeeze=False, layout="constrained")
    for column, entry in enumerate(entries):
        top, bottom = axes[:, column]
        tables = [("λ", entry.parameters.values), ("γ", entry.parameters.guidance)]
        bars = [
            (f"{name}, tap {tap + 1}", table[:, tap])
            for name, table in tables
            if table is not None
            for tap in range(table.shape[1])
        ]
        width = 0.8 / len(bars)
        for number, (name, heights) in enumerate(bars):
            top.bar([row + 1 + number * width for row in range(len(heights))], heights, width, label=name)
        if 1 < len(bars) <= 8:
            top.legend(fontsize=7)
        top.axhline(0, color="0.5", linewidth=0.8)
        top.set(title=label_of(entry), xlabel="row")
        report = entry.report
        if report is not None:
            last = len(entry.parameters.base().sigmas) - 1
            steps = range(last + 1 - len(report.step_errors_base), last + 1)
            bottom.semilogy(steps, report.step_errors_base, "o-", color="0.5", label="base")
            bottom.semilogy(steps, report.step_errors_distilled, "o-", color="C1", label="distilled")
            bottom.legend(fontsize=8)
        bottom.set(xlabel="step")
        for axis in (top, bottom):
            axis.locator_params(axis="x", integer=True)
    axes[0, 0].set_ylabel("learned numbers")
    axes[1, 0].set_ylabel("held-out error (RMS)")
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
