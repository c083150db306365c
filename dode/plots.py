"""Pictures of results, by matplotlib (extra "demo"); only the command line uses them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from dode.errors import DependencyError
from dode.parameter_file import Entry


def pyplot() -> Any:
    """Matplotlib without a screen. Raises DependencyError where it is not installed."""
    try:
        import matplotlib
    except ImportError as error:
        raise DependencyError("Plots need matplotlib: pip install matplotlib") from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


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


def picture(samples: Tensor) -> Any:
    """One sample (3, H, W) in [-1, 1] as rows of pixels for imshow."""
    return ((samples.clamp(-1, 1) + 1) / 2).permute(1, 2, 0).float().numpy()


def sheet(
    rows: Sequence[tuple[str, Tensor]], path: Path, title: str = "", headings: Sequence[str] = (), scale: int = 2
) -> Path:
    """A sheet of pictures, one labelled row a batch (N, 3, H, W), written as PNG with ``scale`` dots a pixel.

    ``headings`` stand over equal groups of columns.
    """
    plt = pyplot()
    import torch

    count, height, width = len(rows[0][1]), rows[0][1].shape[-2], rows[0][1].shape[-1]
    dots = 100
    longest = max(len(label) for label, _ in rows)
    left, head = (0.2 + 0.068 * longest if longest else 0.05), 0.05 + 0.3 * bool(title) + 0.25 * bool(headings)
    size = (left + count * width * scale / dots + 0.05, head + len(rows) * height * scale / dots + 0.05)
    figure = plt.figure(figsize=size, dpi=dots)
    if title:
        figure.text(0.01, 1 - 0.18 / size[1], title, va="center", fontsize=10)
    for number, heading in enumerate(headings):
        middle = (left + (number + 0.5) * (size[0] - left - 0.05) / len(headings)) / size[0]
        figure.text(middle, 1 - (head - 0.12) / size[1], heading, ha="center", va="center", fontsize=8)
    for number, (label, batch) in enumerate(rows):
        strip = torch.cat(list(batch), dim=-1)
        bottom = 1 - (head + (number + 1) * height * scale / dots) / size[1]
        box = (left / size[0], bottom, count * width * scale / dots / size[0], height * scale / dots / size[1])
        axis = figure.add_axes(box)
        axis.imshow(picture(strip), interpolation="nearest", aspect="auto")
        axis.set_axis_off()
        figure.text((left - 0.08) / size[0], bottom + box[3] / 2, label, ha="right", va="center", fontsize=8)
    figure.savefig(path)
    plt.close(figure)
    return path
