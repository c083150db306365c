"""Sparse pictures: a few points and strokes on black, of which few are bright, so that errors have heavy tails."""

import torch
import torch.nn.functional as F
from torch import Tensor

SIZE = 16
POINTS = (1, 2, 3, 5, 0, 0, 1, 3)  # in a picture of each class
STROKES = (0, 0, 0, 0, 1, 2, 1, 1)
RADIUS = 0.6  # of a thing, in pixels: the deviation of its profile
DIMMEST, BRIGHTEST, TAIL = 0.4, 3.0, 1.5  # brightness b of a thing: P(larger than b) = (DIMMEST / b) ** TAIL, up to BRIGHTEST


def sparse(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures (B, 3, 16, 16) of these classes (B,): black is -1, and the few brightest things go beyond 1, up to 5.

    A thing is a segment with a Gaussian profile, and a point one without length. Colours differ somewhat within a picture.
    """
    return torch.cat([_sparse(part, generator) for part in labels.split(1000)])  # of all at once, distances take gigabytes


def _sparse(labels: Tensor, generator: torch.Generator) -> Tensor:
    points, strokes = torch.tensor(POINTS)[labels], torch.tensor(STROKES)[labels]
    shape = len(labels), max(p + s for p, s in zip(POINTS, STROKES, strict=True))
    number = torch.arange(shape[1])
    start, end = 1 + (SIZE - 2) * torch.rand(2, *shape, 2, generator=generator)
    end = torch.where((number < strokes[:, None])[..., None], end, start)
    brightness = (DIMMEST * torch.rand(shape, generator=generator) ** (-1 / TAIL)).clamp(max=BRIGHTEST)
    brightness = brightness * (number < (points + strokes)[:, None])
    colours = torch.rand(len(labels), 1, 3, generator=generator) + 0.5 * torch.rand(*shape, 3, generator=generator)
    colours = colours / colours.amax(2, keepdim=True)

    axis = torch.arange(SIZE) + 0.5
    pixels = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1).view(1, 1, SIZE, SIZE, 2)
    start, along = start[:, :, None, None], (end - start)[:, :, None, None]
    share = ((pixels - start) * along).sum(-1) / along.square().sum(-1).clamp(min=1e-9)  # of the segment, to the nearest point
    distance = pixels - start - share.clamp(0, 1)[..., None] * along
    profile = (-distance.square().sum(-1) / (2 * RADIUS**2)).exp() * brightness[..., None, None]
    return (profile[:, :, None] * colours[..., None, None]).amax(1) * 2 - 1


def describe_sparse(pictures: Tensor, labels: Tensor) -> Tensor:
    """Prompts (B, 13): a one-hot class, and of a picture's light the colour and the centre (x, y), all in [-1, 1]."""
    light = pictures + 1
    colour = light.sum((2, 3))
    axis = torch.linspace(-1, 1, pictures.shape[-1]).to(pictures)
    centre = torch.stack([(light.sum((1, 2)) * axis).sum(1), (light.sum((1, 3)) * axis).sum(1)], dim=1)
    parts = 2 * colour / colour.amax(1, keepdim=True) - 1, centre / colour.sum(1, keepdim=True)
    return torch.cat([F.one_hot(labels, len(POINTS)).to(pictures), *parts], dim=1)
