"""The teacher's way through the noise levels, and a model of the model beside it that costs no evaluation.

Between the levels that the teacher visited, its path x*(σ) and its outputs D*(σ) are interpolated in ln σ (cubic Hermite:
dx/d ln σ = x - D is the ODE itself; the slopes of D are those of parabolas through three levels). Beside the path

    D(y, σ) ≈ D*(σ) + J(σ) (y - x*(σ))     with     J(σ) = c / (c + σ²)

J is the exact derivative for data of variance c that are normal and white. Real data are neither, so what this says of a solver
is not its error; it tells which of a hundred are worth running.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from dode.fit import ranks
from dode.sampling import Denoiser, Guided
from dode.tableau import Array

_REACH, _FEW_CALLS = 0.4, 1.0  # in ln σ, how far a call tells of J; with less weight of calls nearby the theory stands


@dataclass(frozen=True)
class TeacherPath:
    """The teacher's path for a few samples.

    Attributes:
        levels: noise levels at which the model was evaluated, descending, (K,).
        points: x* there, (N, K, m).
        denoised: D* there, (N, K, m).
        ends: where the teacher ends, (N, m).
        flow: whether x = (1 - σ) x0 + σ n (flow matching) rather than x = x0 + σ n.
        seen: of real calls beside the path ln σ, how far the output followed the point, and how far that was away, squared.
    """

    levels: Array
    points: Tensor
    denoised: Tensor
    ends: Tensor
    flow: bool
    seen: tuple[Array, Array, Array] = (np.zeros(0), np.zeros(0), np.zeros(0))

    def learned(self, batches: "Sequence[tuple[Tensor, Calls]]") -> "TeacherPath":
        """The same with J(σ) as real calls beside the path show it: of batches of its samples with these indices (B,)."""
        found = []
        for few, calls in batches:
            for level, (y, denoised) in calls.items():
                away = (y - self._between(self.points, self.points - self.denoised, level, few)).double()
                answer = (denoised - self._between(self.denoised, self._slopes, level, few)).double()
                found.append((level, float((away * answer).sum()), float(away.square().sum())))
        levels, answers, squares = (np.array(each) for each in zip(*found, strict=True))
        return replace(self, seen=(np.log(levels), answers, squares))

    def model(self, y: Tensor, sigma: Tensor) -> Tensor:
        """The model beside the path: a denoiser for y (N, m)."""
        level = float(sigma[0])
        if level not in self._known:  # the same few levels come back with solver after solver
            every = slice(None)
            x = self._between(self.points, self.points - self.denoised, level, every)
            self._known[level] = x, self._between(self.denoised, self._slopes, level, every)
        x, denoised = self._known[level]
        return torch.add(denoised, y - x, alpha=self.response(level))

    def response(self, sigma: float) -> float:
        """J(σ). With flow matching x = (1 - σ) (x0 + n σ / (1 - σ)): there it is that of the noise level σ / (1 - σ), divided
        by 1 - σ."""
        clean = max(1 - sigma, 1e-9) if self.flow else 1.0
        noise = sigma / clean
        theory = self._variance / (self._variance + noise * noise) / clean
        logs, answers, squares = self.seen
        near = np.exp(-(((logs - np.log(sigma)) / _REACH) ** 2) / 2)
        total = float(near @ squares)
        return float(near @ answers) / total if total > 0 and near.sum() > _FEW_CALLS else theory

    def _between(self, values: Tensor, slopes: Tensor, sigma: float, samples: "slice | Tensor") -> Tensor:
        """Values (N, K, m) with slopes in ln σ, interpolated; outside the levels visited the nearest is taken."""
        logs = self._logs
        after = int(np.clip(np.searchsorted(-logs, -np.log(sigma)), 1, len(logs) - 1))
        width = logs[after] - logs[after - 1]
        t = float(np.clip((np.log(sigma) - logs[after - 1]) / width, 0.0, 1.0))
        weight = 3 * t * t - 2 * t**3
        found = values[samples, after - 1] * (1 - weight) + values[samples, after] * weight
        found.add_(slopes[samples, after - 1], alpha=(t**3 - 2 * t * t + t) * width)
        return found.add_(slopes[samples, after], alpha=(t**3 - t * t) * width)

    @cached_property
    def _known(self) -> dict[float, tuple[Tensor, Tensor]]:
        return {}

    @cached_property
    def _logs(self) -> Array:
        return np.log(self.levels)

    @cached_property
    def _variance(self) -> float:
        return float(self.ends.double().var())

    @cached_property
    def _slopes(self) -> Tensor:
        return _parabolas(self.denoised, self._logs)


def _parabolas(values: Tensor, logs: Array) -> Tensor:
    """Slopes of values (N, K, m) over K points (K,), from parabolas through three of them."""
    widths = torch.from_numpy(np.diff(logs)).to(values)[:, None]
    steps = values.diff(dim=1) / widths
    if len(logs) < 3:
        return steps.expand_as(values)
    left, right = widths[:-1], widths[1:]
    inner = (steps[:, :-1] * right + steps[:, 1:] * left) / (left + right)
    first, last = 2 * steps[:, :1] - inner[:, :1], 2 * steps[:, -1:] - inner[:, -1:]
    return torch.cat([first, inner, last], dim=1)


Calls = dict[float, tuple[Tensor, Tensor]]  # of each noise level what the model got and gave


class Recorder:
    """Keeps what a teacher's model calls saw and gave, as ``keep`` makes it of (B, …): of each noise level the last call.

    Batches that go through one after the other are different samples.
    """

    def __init__(self, keep: Callable[[Tensor], Tensor]):
        self.keep = keep
        self.batches: list[tuple[Tensor, Calls]] = []

    def watch(self, denoiser: Denoiser, samples: Tensor) -> Denoiser:
        """The denoiser for the next batch, of the samples with these indices (B,)."""
        calls: Calls = {}
        self.batches.append((samples, calls))

        def denoise(y: Tensor, sigma: Tensor) -> Tensor | Guided:
            output = denoiser(y, sigma)
            denoised = output.denoised if isinstance(output, Guided) else output
            calls[float(sigma[0])] = self.keep(y), self.keep(denoised)
            return output

        return denoise

    def gather(self) -> None:
        """Take in what the other processes of the fit have kept (``dode.fit.ranks``)."""
        self.batches = [batch for batches in ranks.gathered(self.batches) for batch in batches]

    def path(self, ends: Tensor, flow: bool) -> TeacherPath:
        """The path of all samples, given where they ended (N, …)."""
        levels = sorted(self.batches[0][1], reverse=True)
        joined = [[torch.cat(parts) for parts in zip(*(calls[s] for _, calls in self.batches), strict=True)] for s in levels]
        points, denoised = (torch.stack(parts, dim=1) for parts in zip(*joined, strict=True))
        return TeacherPath(np.array(levels), points, denoised, self.keep(ends), flow)
