"""Pictures for the page: a plot of parameters, and labelled panels side by side.

Drawn with Pillow, which ComfyUI has; it has no plotting library.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dode.files.parameter_file import Entry
from dode.tableau import Array

_INK, _FAINT, _PAPER = (230, 230, 230), (90, 90, 96), (30, 30, 34)
_COLOURS = ((86, 156, 214), (220, 150, 80), (120, 190, 120), (190, 120, 190))
_WIDTH, _HEIGHT, _MARGIN = 560, 360, 56


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def to_tensor(picture: Image.Image) -> Tensor:
    """As the host's IMAGE: float32 (1, H, W, 3) in [0, 1]."""
    return torch.from_numpy(np.asarray(picture.convert("RGB"), dtype=np.float32) / 255)[None]


def plot(entry: Entry) -> Tensor:
    """λ and γ for each row, and the error after each step or at the end, where the file has them."""
    panels = [_bars(entry.parameters.values, "learned correction of each update")]
    if entry.parameters.guidance is not None:
        panels.append(_bars(entry.parameters.guidance, "learned change of guidance of each update"))
    if entry.report is not None and max(entry.report.step_errors_base, default=0) > 0:
        panels.append(_errors(entry))
    sheet = Image.new("RGB", (_WIDTH * len(panels), _HEIGHT), _PAPER)
    for number, panel in enumerate(panels):
        sheet.paste(panel, (_WIDTH * number, 0))
    return to_tensor(sheet)


def _panel(title: str, ticks: Sequence[tuple[float, str]], bottom: str) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """An empty plot; ticks are heights in [0, 1] and their labels."""
    panel = Image.new("RGB", (_WIDTH, _HEIGHT), _PAPER)
    draw = ImageDraw.Draw(panel)
    draw.text((_MARGIN, 14), title, _INK, _font(15))
    draw.text((_WIDTH / 2, _HEIGHT - 14), bottom, _INK, _font(12), anchor="mm")
    for height, label in ticks:
        y = _y(height)
        draw.line([(_MARGIN, y), (_WIDTH - 16, y)], _FAINT)
        draw.text((_MARGIN - 6, y), label, _INK, _font(11), anchor="rm")
    return panel, draw


def _y(height: float) -> float:
    return _HEIGHT - _MARGIN - height * (_HEIGHT - 2 * _MARGIN)


def _x(number: float, count: int) -> float:
    return _MARGIN + (number + 0.5) * (_WIDTH - _MARGIN - 16) / count


def _bars(values: Array, title: str) -> Image.Image:
    rows, taps = values.shape
    largest = max(float(np.abs(values).max()), 1e-9)
    ticks = [(0.0, f"{-largest:.2g}"), (0.5, "0"), (1.0, f"{largest:.2g}")]
    panel, draw = _panel(title, ticks, "update")
    width = 0.7 * (_WIDTH - _MARGIN - 16) / rows / taps
    for row in range(rows):
        left = _x(row, rows) - width * taps / 2
        for tap in range(taps):
            heights = sorted((_y(0.5), _y(0.5 + 0.5 * float(values[row, tap]) / largest)))
            x = left + tap * width
            draw.rectangle([x, heights[0], x + width - 1, heights[1]], fill=_COLOURS[tap % len(_COLOURS)])
        draw.text((_x(row, rows), _HEIGHT - _MARGIN + 12), str(row + 1), _INK, _font(11), anchor="mm")
    return panel


def _errors(entry: Entry) -> Image.Image:
    report = entry.report
    assert report is not None
    curves = (("undistilled", report.step_errors_base), ("distilled", report.step_errors_distilled))
    positive = [v for _, curve in curves for v in curve if v > 0]
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    high = max(high, low + 1)
    decades = range(low, high + 1)
    count, last = len(report.step_errors_base), len(entry.parameters.base().sigmas) - 1
    title = "error after each step (log scale)" if count > 1 else "error at the end (log scale)"
    panel, draw = _panel(title, [((d - low) / (high - low), f"1e{d}") for d in decades], "step")
    for number, (name, curve) in enumerate(curves):
        points = [(_x(i, count), _y((math.log10(v) - low) / (high - low))) for i, v in enumerate(curve) if v > 0]
        draw.line(points, _COLOURS[1 - number], width=2)
        for x, y in points:
            draw.ellipse([x - 3, y - 3, x + 3, y + 3], fill=_COLOURS[1 - number])
        draw.text((_WIDTH - 20, 8 + 16 * number), name, _COLOURS[1 - number], _font(12), anchor="ra")
    for i in range(count):
        draw.text((_x(i, count), _HEIGHT - _MARGIN + 12), str(last - count + i + 1), _INK, _font(11), anchor="mm")
    return panel


def side_by_side(rows: Sequence[Sequence[Tensor]], captions: Sequence[str]) -> Tensor:
    """Panels in columns under captions (several lines allowed). ``rows`` hold IMAGE pictures (H, W, 3) of one size.

    Small pictures are enlarged by a whole factor, so that every pixel of theirs stays visible.
    """
    height, width = rows[0][0].shape[:2]
    factor = max(1, 256 // max(height, width))
    height, width = height * factor, max(width * factor, 200)
    band = 22 + 16 * max(caption.count("\n") + 1 for caption in captions)
    sheet = Image.new("RGB", (width * len(captions), band + height * len(rows)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, caption in enumerate(captions):
        draw.multiline_text((column * width + 8, 8), caption, _INK, _font(13))
        for number, row in enumerate(rows):
            pixels = (row[column].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
            picture = Image.fromarray(pixels).resize((row[column].shape[1] * factor, height), Image.Resampling.NEAREST)
            sheet.paste(picture, (column * width, band + number * height))
    return to_tensor(sheet)
