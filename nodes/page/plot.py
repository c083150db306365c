"""Pictures for the page: a plot of parameters, and labelled panels side by side.

Drawn with Pillow, which ComfyUI has; it has no plotting library.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dode.charts import Chart, Series, charts_of
from dode.files.parameter_file import Entry

_INK, _FAINT, _PAPER = (230, 230, 230), (90, 90, 96), (30, 30, 34)
# Told apart by lightness too, and by people who see fewer colours.
_COLOURS, _START = ((86, 156, 214), (240, 160, 40), (240, 240, 240)), (150, 150, 150)
_WIDTH, _HEIGHT, _MARGIN = 560, 360, 56


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def to_tensor(picture: Image.Image) -> Tensor:
    """As the host's IMAGE: float32 (1, H, W, 3) in [0, 1]."""
    return torch.from_numpy(np.asarray(picture.convert("RGB"), dtype=np.float32) / 255)[None]


def plot(entry: Entry) -> Tensor:
    """The charts of ``dode.charts`` side by side, as IMAGE."""
    panels = [_panel(chart) for chart in charts_of(entry)]
    sheet = Image.new("RGB", (_WIDTH * len(panels), _HEIGHT), _PAPER)
    for number, panel in enumerate(panels):
        sheet.paste(panel, (_WIDTH * number, 0))
    return to_tensor(sheet)


def _panel(chart: Chart) -> Image.Image:
    """One chart: title and legend, a labelled vertical axis, lines or bars."""
    panel = Image.new("RGB", (_WIDTH, _HEIGHT), _PAPER)
    draw = ImageDraw.Draw(panel)
    draw.text((_MARGIN, 14), chart.title, _INK, _font(15))
    draw.text((_WIDTH / 2, _HEIGHT - 14), chart.axis, _INK, _font(12), anchor="mm")
    scale = _Scale(chart)
    for value, label in scale.ticks():
        y = scale(value)
        draw.line([(_MARGIN, y), (_WIDTH - 16, y)], _FAINT)
        draw.text((_MARGIN - 6, y), label, _INK, _font(11), anchor="rm")
    for number, label in enumerate(chart.labels):
        draw.text((_x(number, len(chart.labels)), _HEIGHT - _MARGIN + 12), label, _INK, _font(11), anchor="mm")
    for number, series in enumerate(chart.series):
        colour = _colour(series)
        if len(chart.series) > 1:
            draw.text((_WIDTH - 20, 8 + 15 * number), series.name, colour, _font(12), anchor="ra")
        (_line if chart.form == "lines" else _bars)(draw, chart, number, scale, colour)
    if chart.level is not None:
        draw.line([(_MARGIN, scale(chart.level)), (_WIDTH - 16, scale(chart.level))], _INK)
    return panel


def _colour(series: Series) -> tuple[int, int, int]:
    return _START if series.key == "start" else _COLOURS[max(series.number - 1, 0) % len(_COLOURS)]


class _Scale:
    """From a value to a height in the picture."""

    def __init__(self, chart: Chart):
        values = [v for series in chart.series for v in series.values if v is not None]
        values += [] if chart.level is None else [chart.level]
        self.logarithmic = chart.logarithmic
        if self.logarithmic:
            values = [math.log10(v) for v in values if v > 0] or [0.0]
            self.low, self.high = math.floor(min(values)), math.ceil(max(values))
        else:
            self.low, self.high = min(0.0, *values, 0.0), max(0.0, *values, 0.0)
        if self.low == self.high:
            self.high = self.low + 1

    def __call__(self, value: float) -> float:
        value = math.log10(value) if self.logarithmic else value
        part = (value - self.low) / (self.high - self.low)
        return _HEIGHT - _MARGIN - part * (_HEIGHT - 2 * _MARGIN)

    def ticks(self) -> list[tuple[float, str]]:
        if self.logarithmic:
            return [(10.0**d, f"{10.0**d:g}") for d in range(int(self.low), int(self.high) + 1)]
        return [(value, f"{value:.3g}") for value in sorted({self.low, 0.0, self.high})]


def _x(number: float, count: int) -> float:
    return _MARGIN + (number + 0.5) * (_WIDTH - _MARGIN - 16) / count


def _line(draw: ImageDraw.ImageDraw, chart: Chart, number: int, scale: _Scale, colour: tuple[int, int, int]) -> None:
    values = chart.series[number].values
    points = [(_x(i, len(values)), scale(v)) for i, v in enumerate(values) if v is not None and v > 0]
    draw.line(points, colour, width=2)
    for x, y in points:
        draw.ellipse([x - 3, y - 3, x + 3, y + 3], fill=colour)


def _bars(draw: ImageDraw.ImageDraw, chart: Chart, number: int, scale: _Scale, colour: tuple[int, int, int]) -> None:
    values, groups = chart.series[number].values, len(chart.series)
    width = 0.7 * (_WIDTH - _MARGIN - 16) / len(values) / groups
    for row, value in enumerate(values):
        if value is None:
            continue
        left = _x(row, len(values)) + (number - groups / 2) * width
        heights = sorted((scale(0.0), scale(value)))
        draw.rectangle([left, heights[0], left + width - 1, heights[1]], fill=colour)


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
