"""The data of the embedded model: small pictures drawn without limit.

Eight classes, each a continuous family (pose, colours, light, texture and clutter all vary), drawn from signed distances with
one pixel of anti-aliasing. Nothing is downloaded and no two draws repeat, so a model trained on them learns a
distribution and not a list of pictures.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

CLASSES = ("landscape", "sailboat", "flower", "house", "face", "fish", "tree", "planet")


class _Canvas:
    """A batch of pictures being painted: colours in [0, 1], coordinates in [-1, 1] with y pointing down."""

    def __init__(self, count: int, size: int, generator: torch.Generator):
        self.count, self.size, self.generator = count, size, generator
        axis = (torch.arange(size) + 0.5) * (2 / size) - 1
        self.y, self.x = axis[None, :, None], axis[None, None, :]
        self.rgb = torch.zeros(count, 3, size, size)

    def uniform(self, low: float, high: float) -> Tensor:
        """One number per picture, shaped (B, 1, 1)."""
        return low + (high - low) * torch.rand(self.count, 1, 1, generator=self.generator)

    def chance(self, probability: float) -> Tensor:
        return (self.uniform(0, 1) < probability).float()

    def colour(self, low: tuple[float, float, float], high: tuple[float, float, float], spread: float = 0.5) -> Tensor:
        """A colour per picture (B, 3, 1, 1) between the two; ``spread`` is how far the channels go their own ways."""
        a, b = torch.tensor(low), torch.tensor(high)
        each = torch.rand(self.count, 3, generator=self.generator)
        shared = torch.rand(self.count, 1, generator=self.generator)
        return (a + (b - a) * (spread * each + (1 - spread) * shared))[:, :, None, None]

    def hue(self, saturation: float = 0.75, value: float = 0.9) -> Tensor:
        """A colour per picture (B, 3, 1, 1) of any hue."""
        h = self.uniform(0, 1).squeeze(-1)
        wheel = (h + torch.tensor([0.0, 2 / 3, 1 / 3])) % 1
        channel = (2 - (wheel * 6 - 3).abs()).clamp(0, 1)
        return (value * (1 - saturation * channel))[:, :, None, None]

    def noise(self, cells: int, octaves: int = 3) -> Tensor:
        """Smooth noise in about [-1, 1], (B, size, size): each octave has twice the cells at half the height."""
        total = torch.zeros(self.count, 1, self.size, self.size)
        for octave in range(octaves):
            n = min(cells * 2**octave, self.size)
            grid = torch.randn(self.count, 1, n, n, generator=self.generator)
            total += F.interpolate(grid, size=(self.size, self.size), mode="bicubic", align_corners=False) / 2**octave
        return total[:, 0] * 0.5

    def ridge(self, cells: int) -> Tensor:
        """A smooth random line, (B, 1, size): heights in about [-1, 1]."""
        total = torch.zeros(self.count, 1, self.size)
        for octave in range(3):
            grid = torch.randn(self.count, 1, cells * 2**octave, generator=self.generator)
            total += F.interpolate(grid, size=self.size, mode="linear", align_corners=True) / 2**octave
        return total * 0.5

    def fill(self, colour: Tensor) -> None:
        self.rgb = colour.expand_as(self.rgb).clone()

    def cover(self, distance: Tensor, colour: Tensor, opacity: Tensor | float = 1.0) -> None:
        """Paint where the signed distance (B, size, size) is negative."""
        alpha = (0.5 - distance * (self.size / 2)).clamp(0, 1) * opacity
        self.rgb = self.rgb + alpha[:, None] * (colour - self.rgb)

    def shade(self, amount: Tensor) -> None:
        """Multiply brightness by 1 + amount, (B, size, size)."""
        self.rgb = self.rgb * (1 + amount[:, None]).clamp(0.1, 2)

    def frame(self, x: Tensor, y: Tensor, angle: Tensor | float = 0.0, scale: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
        """Coordinates in a frame at (x, y), turned and scaled."""
        angle = torch.as_tensor(angle)
        dx, dy = self.x - x, self.y - y
        return (dx * angle.cos() + dy * angle.sin()) / scale, (dy * angle.cos() - dx * angle.sin()) / scale

    def sky(self, high: Tensor, low: Tensor) -> None:
        t = ((self.y + 1) / 2).expand(self.count, self.size, self.size)[:, None]
        self.rgb = high + (low - high) * t
        self.shade(0.08 * self.noise(3))


def _ellipse(u: Tensor, v: Tensor, a: Tensor | float, b: Tensor | float) -> Tensor:
    radius = ((u / a) ** 2 + (v / b) ** 2).sqrt()
    return (radius - 1) * torch.minimum(torch.as_tensor(a), torch.as_tensor(b))


def _box(u: Tensor, v: Tensor, a: Tensor | float, b: Tensor | float) -> Tensor:
    return torch.maximum(u.abs() - a, v.abs() - b)


def _triangle(u: Tensor, v: Tensor, half: Tensor | float, height: Tensor | float) -> Tensor:
    """Apex at (0, 0), base of half-width ``half`` at v = height."""
    slope = half / height
    side = (u.abs() - v * slope) / (1 + slope**2) ** 0.5
    return torch.maximum(side, v - height)


def _sky_colours(c: _Canvas) -> tuple[Tensor, Tensor]:
    day = c.chance(0.65)[:, None]
    high = day * c.colour((0.2, 0.45, 0.8), (0.45, 0.7, 1.0)) + (1 - day) * c.colour((0.15, 0.1, 0.3), (0.5, 0.3, 0.5))
    low = day * c.colour((0.7, 0.85, 0.9), (0.95, 1.0, 1.0)) + (1 - day) * c.colour((0.9, 0.45, 0.25), (1.0, 0.75, 0.5))
    return high, low


def _sun(c: _Canvas, y_high: float) -> None:
    u, v = c.frame(c.uniform(-0.8, 0.8), c.uniform(-0.85, y_high))
    r = c.uniform(0.1, 0.24)
    c.cover(_ellipse(u, v, r * 1.7, r * 1.7), c.colour((1.0, 0.9, 0.6), (1.0, 1.0, 0.9)), 0.3)
    c.cover(_ellipse(u, v, r, r), c.colour((1.0, 0.8, 0.3), (1.0, 1.0, 0.8)))


def _clouds(c: _Canvas) -> None:
    for _ in range(2):
        u, v = c.frame(c.uniform(-1, 1), c.uniform(-0.9, -0.4))
        wobble = 0.12 * c.noise(5)
        c.cover(_ellipse(u, v, c.uniform(0.2, 0.5), c.uniform(0.08, 0.16)) + wobble, torch.ones(3, 1, 1), c.uniform(0.3, 0.9))


def _landscape(c: _Canvas) -> None:
    c.sky(*_sky_colours(c))
    _sun(c, -0.2)
    _clouds(c)
    far = c.uniform(-0.3, 0.1) + c.uniform(0.2, 0.45) * c.ridge(4)
    tone = c.colour((0.3, 0.35, 0.5), (0.6, 0.55, 0.7))
    c.cover(far - c.y, tone)
    snow = far + c.uniform(0.02, 0.3) + 0.1 * c.noise(8)
    c.cover(torch.maximum(far - c.y, c.y - snow), torch.full((3, 1, 1), 0.95), c.chance(0.5) * 0.9)
    near = c.uniform(0.25, 0.6) + c.uniform(0.1, 0.2) * c.ridge(3)
    before = c.rgb
    c.cover(near - c.y, c.colour((0.15, 0.35, 0.1), (0.55, 0.65, 0.3)))
    painted = (c.rgb - before).abs().sum(1) > 0.02
    c.shade(0.22 * c.noise(8, 3) * painted)


def _sailboat(c: _Canvas) -> None:
    high, low = _sky_colours(c)
    c.sky(high, low)
    _sun(c, -0.1)
    _clouds(c)
    horizon = c.uniform(0.0, 0.35)
    c.cover(horizon - c.y, c.colour((0.05, 0.25, 0.45), (0.25, 0.55, 0.7)))
    waves = torch.sin((c.y - horizon + 0.25) ** 0.5 * c.uniform(25, 45) + 3 * c.noise(4) + c.x * c.uniform(-4, 4))
    c.shade(0.18 * torch.nan_to_num(waves) * (c.y > horizon))
    u, v = c.frame(c.uniform(-0.4, 0.4), horizon + c.uniform(0.05, 0.3), c.uniform(-0.12, 0.12), c.uniform(0.7, 1.15))
    hull = torch.maximum(_box(u, v, 0.5, 0.13), u.abs() + v * 0.7 - 0.42)
    sail = c.hue(0.7, 0.95)
    white = c.chance(0.5)[:, None]
    c.cover(_triangle(u - 0.04, v + 1.0, 0.7, 0.82).maximum(0.03 - u), white * 0.97 + (1 - white) * sail)
    c.cover(_triangle(u + 0.02, v + 0.85, 0.5, 0.67).maximum(u + 0.03), sail)
    c.cover(_box(u, v + 0.55, 0.03, 0.5), torch.tensor([0.35, 0.22, 0.12])[:, None, None])
    c.cover(hull, c.hue(0.8, 0.6))


def _flower(c: _Canvas) -> None:
    c.fill(c.colour((0.25, 0.45, 0.2), (0.75, 0.9, 0.8)))
    c.shade(0.25 * c.noise(5, 3))
    cx, cy = c.uniform(-0.25, 0.25), c.uniform(-0.4, 0.0)
    bend = c.uniform(-0.4, 0.4)
    stem = (c.x - cx - bend * (c.y - cy) ** 2).abs() - 0.06
    green = c.colour((0.05, 0.3, 0.05), (0.3, 0.55, 0.2))
    c.cover(torch.maximum(stem, cy - c.y), green)
    for side in (-1.0, 1.0):
        u, v = c.frame(cx + side * 0.27 + bend * 0.3, cy + c.uniform(0.6, 0.8), side * c.uniform(-0.9, -0.3))
        c.cover(_ellipse(u, v, 0.27, 0.1), green * c.uniform(0.9, 1.3)[:, None])
    u, v = c.frame(cx, cy, c.uniform(0, math.pi))
    radius, angle = (u**2 + v**2).sqrt(), torch.atan2(v, u)
    petals = (c.uniform(0, 1) * 4).floor() + 4
    edge = c.uniform(0.42, 0.62) * (0.68 + 0.32 * (petals * angle).cos())
    petal = c.hue(0.75, 0.97)
    c.cover(radius - edge, petal)
    c.cover(radius - edge * 0.62, petal * c.uniform(0.65, 1.0)[:, None], 0.7)
    r = c.uniform(0.12, 0.22)
    c.cover(radius - r, c.colour((0.5, 0.25, 0.05), (1.0, 0.85, 0.25)))
    c.shade(0.1 * c.noise(12, 2))


def _house(c: _Canvas) -> None:
    c.sky(*_sky_colours(c))
    _clouds(c)
    ground = c.uniform(0.45, 0.7)
    c.cover(ground - c.y + 0.05 * c.ridge(4), c.colour((0.2, 0.4, 0.1), (0.6, 0.65, 0.35)))
    u, v = c.frame(c.uniform(-0.25, 0.25), ground, 0.0, c.uniform(0.85, 1.15))
    width, height = c.uniform(0.4, 0.6), c.uniform(0.55, 0.8)
    wall = c.colour((0.55, 0.4, 0.3), (1.0, 0.95, 0.85))
    roof = c.colour((0.4, 0.12, 0.1), (0.75, 0.45, 0.4))
    c.cover(_box(u - width * 0.6, v + height + 0.35, 0.07, 0.25), roof * 0.8, c.chance(0.6))
    c.cover(_box(u, v + height / 2 - 0.05, width, height / 2 + 0.05), wall)
    rise = c.uniform(0.35, 0.6)
    c.cover(_triangle(u, v + height + rise, width * 1.3, rise + 0.02), roof)
    c.cover(_box(u - c.uniform(-0.1, 0.1), v + 0.1, 0.1, 0.27), c.hue(0.8, 0.55))
    lit = c.chance(0.5)[:, None]
    pane = lit * torch.tensor([1.0, 0.9, 0.45])[:, None, None] + (1 - lit) * torch.tensor([0.35, 0.5, 0.65])[:, None, None]
    for side in (-1.0, 1.0):
        c.cover(_box(u - side * width * 0.58, v + height * 0.62, 0.13, 0.13), torch.full((3, 1, 1), 0.97))
        c.cover(_box(u - side * width * 0.58, v + height * 0.62, 0.085, 0.085), pane)
    c.shade(0.12 * c.noise(9, 2) + 0.2 * (c.x * c.uniform(-1, 1)))


def _face(c: _Canvas) -> None:
    c.fill(c.hue(0.45, 0.85))
    c.shade(0.15 * c.noise(3) + 0.2 * c.y * c.uniform(-1, 1))
    u, v = c.frame(c.uniform(-0.12, 0.12), c.uniform(-0.05, 0.15), c.uniform(-0.2, 0.2), c.uniform(0.85, 1.1))
    hair = c.colour((0.1, 0.05, 0.02), (0.9, 0.7, 0.35), 0.15)
    skin = c.colour((0.4, 0.24, 0.15), (1.0, 0.84, 0.72), 0.1)
    c.cover(_box(u, v - 1.25, 0.62, 0.35) - 0.12, c.hue(0.7, 0.8))
    c.cover(_ellipse(u, v + 0.12, 0.72, c.uniform(0.7, 0.8)) + 0.1 * c.noise(8, 1), hair)
    c.cover(_box(u, v - 0.35, 0.66, 0.45) - 0.04, hair, c.chance(0.4))
    c.cover(_box(u, v - 0.7, 0.2, 0.35), skin * 0.85)
    c.cover(_ellipse(u, v - 0.03, 0.56, c.uniform(0.6, 0.7)), skin)
    c.cover(_ellipse(u, v + c.uniform(0.62, 0.72), 0.6, 0.3) + 0.08 * c.noise(7, 1), hair)
    gap, iris = c.uniform(0.2, 0.27), c.colour((0.05, 0.05, 0.05), (0.35, 0.5, 0.65))
    look = c.uniform(-0.04, 0.04)
    for side in (-1.0, 1.0):
        e = u - side * gap
        c.cover(_ellipse(e, v + 0.05, 0.13, 0.09), torch.full((3, 1, 1), 0.98))
        c.cover(_ellipse(e - look, v + 0.05, 0.065, 0.075), iris)
        c.cover(_box(e, v + c.uniform(0.2, 0.26), 0.13, 0.03), hair * 0.7)
    smile = v - 0.36 + c.uniform(-1.0, 3.0) * (u**2 - 0.02)
    c.cover(torch.maximum(smile.abs() - c.uniform(0.03, 0.08), u.abs() - 0.22), c.colour((0.5, 0.1, 0.1), (0.85, 0.35, 0.35)))
    c.cover(_ellipse(u, v - 0.15, 0.05, 0.09), skin * 0.78)
    c.shade(u * c.uniform(-0.25, 0.25))


def _fish(c: _Canvas) -> None:
    c.sky(c.colour((0.1, 0.5, 0.65), (0.4, 0.8, 0.9)), c.colour((0.0, 0.1, 0.3), (0.1, 0.35, 0.55)))
    c.shade(0.15 * torch.sin(c.x * 6 + c.y * c.uniform(-4, 4) + 4 * c.noise(3)))
    c.cover(c.uniform(0.65, 0.95) - c.y + 0.08 * c.ridge(5), c.colour((0.6, 0.5, 0.3), (0.9, 0.8, 0.6)))
    facing = 1 - 2 * c.chance(0.5)
    u, v = c.frame(c.uniform(-0.15, 0.15), c.uniform(-0.25, 0.3), c.uniform(-0.35, 0.35), c.uniform(0.75, 1.1))
    u = u * facing
    body, mark = c.hue(0.85, 0.95), c.hue(0.6, 1.0)
    fins = body * 0.75
    tail = torch.maximum(v.abs() - (-0.35 - u) * c.uniform(0.6, 1.0), torch.maximum(-0.92 - u, u + 0.35))
    c.cover(tail, fins)
    c.cover(_ellipse(u + 0.05, v + 0.35, 0.28, c.uniform(0.14, 0.28)), fins)
    tall = c.uniform(0.3, 0.45)
    shape = _ellipse(u, v, 0.62, tall)
    c.cover(shape, body)
    stripes = torch.sin(u * c.uniform(9, 18) + 2 * v**2 + c.uniform(0, 6))
    c.cover(torch.maximum(shape, 0.25 - stripes), mark, c.chance(0.7) * 0.9)
    c.cover(torch.maximum(shape, c.uniform(0.1, 0.25) - v), torch.full((3, 1, 1), 0.95), 0.6)
    c.cover(_ellipse(u - 0.38, v + 0.1, 0.095, 0.095), torch.full((3, 1, 1), 0.98))
    c.cover(_ellipse(u - 0.4, v + 0.1, 0.05, 0.05), torch.zeros(3, 1, 1))
    for _ in range(3):
        b, w = c.frame(c.uniform(-1, 1), c.uniform(-1, 0.6))
        r = c.uniform(0.03, 0.1)
        c.cover(_ellipse(b, w, r, r).abs() - 0.02, torch.full((3, 1, 1), 0.95), 0.7)


def _tree(c: _Canvas) -> None:
    c.sky(*_sky_colours(c))
    _clouds(c)
    c.cover(c.uniform(0.5, 0.75) - c.y + 0.08 * c.ridge(4), c.colour((0.25, 0.35, 0.1), (0.7, 0.65, 0.4)))
    cx, base = c.uniform(-0.25, 0.25), c.uniform(0.72, 0.9)
    bark = c.colour((0.2, 0.1, 0.05), (0.5, 0.35, 0.22))
    lean = c.uniform(-0.12, 0.12)
    trunk = (c.x - cx - lean * (c.y - base)).abs() - c.uniform(0.07, 0.13) - 0.08 * (c.y - base + 0.5).clamp(min=0)
    c.cover(torch.maximum(trunk, (c.y - base + 0.5).abs() - 0.5), bark)
    autumn = c.chance(0.3)[:, None]
    leaf = autumn * c.colour((0.65, 0.25, 0.05), (0.95, 0.6, 0.2)) + (1 - autumn) * c.colour(
        (0.08, 0.3, 0.08), (0.4, 0.65, 0.25)
    )
    pine = c.chance(0.4)
    rough = 0.16 * c.noise(8, 2)
    u, v = c.frame(cx - 0.5 * lean, base - c.uniform(0.95, 1.05))
    crown = _ellipse(u, v, c.uniform(0.42, 0.65), c.uniform(0.4, 0.55)) + rough
    cone = torch.stack([_triangle(u, v + 0.75 - 0.32 * k, 0.3 + 0.13 * k, 0.55) for k in range(3)]).amin(0) + 0.4 * rough
    shape = pine * cone + (1 - pine) * crown
    c.cover(shape, leaf)
    light = 0.3 * c.noise(9, 2) - 0.3 * v + 0.3 * u * c.uniform(-1, 1)
    c.shade(light * (shape < 0.03))


def _planet(c: _Canvas) -> None:
    c.fill(c.colour((0.0, 0.0, 0.05), (0.12, 0.06, 0.2)))
    c.rgb = c.rgb + 0.12 * c.noise(3)[:, None].clamp(min=0) * c.hue(0.6, 1.0)
    stars = torch.rand(c.count, c.size, c.size, generator=c.generator)
    c.rgb = c.rgb + ((stars > 0.985).float() * stars * c.uniform(0.5, 1.0))[:, None]
    u, v = c.frame(c.uniform(-0.2, 0.2), c.uniform(-0.2, 0.2), c.uniform(-0.7, 0.7))
    r = c.uniform(0.38, 0.62)
    disc = _ellipse(u, v, r, r)
    ringed = c.chance(0.5)
    tilt = c.uniform(0.18, 0.4)
    radius = ((u / r) ** 2 + (v / (r * tilt)) ** 2).sqrt()
    ring = ((radius - 1.55).abs() - c.uniform(0.1, 0.25)) * r * tilt
    tint = c.colour((0.6, 0.5, 0.4), (0.95, 0.9, 0.85))
    c.cover(ring, tint, ringed * 0.85)
    c.cover(disc, c.hue(0.65, 0.9))
    bands = torch.sin(v / r * c.uniform(5, 14) + c.uniform(0, 6) + c.uniform(0, 2.5) * c.noise(4))
    c.cover(torch.maximum(disc, -bands), c.hue(0.5, 0.95), 0.65)
    angle = c.uniform(0, 2 * math.pi)
    height = (1 - (u / r) ** 2 - (v / r) ** 2).clamp(min=0).sqrt()
    glow = (u * angle.cos() + v * angle.sin()) / r * 0.75 + height * 0.66
    c.shade(((glow * 1.25).clamp(0.1, 1.25) - 1) * (disc < 0))
    c.cover(torch.maximum(ring, -v), tint, ringed * 0.85)


_PAINTERS: tuple[Callable[[_Canvas], None], ...] = (
    _landscape,
    _sailboat,
    _flower,
    _house,
    _face,
    _fish,
    _tree,
    _planet,
)


def draw(labels: Tensor, generator: torch.Generator, size: int = 32) -> Tensor:
    """Draw one fresh picture per label.

    Args:
        labels: class numbers (B,), each an index into ``CLASSES``.
        generator: a CPU generator; the same state gives the same pictures.
        size: height and width in pixels.

    Returns:
        Pictures (B, 3, size, size), float32 in [-1, 1].
    """
    pictures = torch.empty(len(labels), 3, size, size)
    for label, paint in enumerate(_PAINTERS):
        where = (labels == label).nonzero()[:, 0]
        if len(where):
            canvas = _Canvas(len(where), size, generator)
            paint(canvas)
            pictures[where] = canvas.rgb
    return pictures.clamp(0, 1) * 2 - 1


def main() -> None:
    """Draw a sheet: ``python -m dode.demo.pictures OUT.png``, twelve fresh pictures of each class."""
    import sys
    from pathlib import Path

    from dode.images import sheet

    generator = torch.Generator().manual_seed(1)
    drawn = [(name, draw(torch.full((12,), label), generator)) for label, name in enumerate(CLASSES)]
    sheet(drawn, Path(sys.argv[1]))


if __name__ == "__main__":
    main()
