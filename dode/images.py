"""Pictures and charts by matplotlib (extra "demo"); inside ComfyUI nothing needs it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from dode.errors import DependencyError


def pyplot() -> Any:
    """Matplotlib without a screen. Raises DependencyError where it is not installed."""
    try:
        import matplotlib
    except ImportError as error:
        raise DependencyError("Plots need matplotlib: pip install matplotlib") from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


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
