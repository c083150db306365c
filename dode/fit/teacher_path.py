"""The teacher's way through the noise levels, and what it tells of other solvers without asking the model again.

Between the levels that the teacher visited its path x*(σ) and its outputs D*(σ) are interpolated in ln σ (cubic Hermite:
dx/d ln σ = x - D is the ODE itself, and D's slopes are those of parabolas through three levels). Beside the path the model's
output is

    D(y, σ) ≈ D*(σ) + J(σ) (y - x*(σ))     with     J(σ) = c / (c + σ²)

J is the exact derivative for data of variance c that are normal and white. Real data are neither, so what this says of a solver
is not its error; it ranks them well enough to leave most of a hundred out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dode.sampling import sample
from dode.tableau import Array, Tableau


@dataclass(frozen=True)
class TeacherPath:
    """The teacher's path for a few samples.

    Attributes:
        levels: noise levels at which the model was evaluated, descending, (K,).
        points: x* there, (N, K, m).
        denoised: D* there, (N, K, m).
        ends: where the teacher ends, (N, m).
        flow: whether x = (1 - σ) x0 + σ n (flow matching) rather than x = x0 + σ n.
    """

    levels: Array
    points: Tensor
    denoised: Tensor
    ends: Tensor
    flow: bool

    def joined(self, others: Sequence["TeacherPath"]) -> "TeacherPath":
        """The same path with the samples of others behind its own."""
        parts = [self, *others]
        return replace(
            self, **{name: torch.cat([getattr(part, name) for part in parts]) for name in ("points", "denoised", "ends")}
        )

    def estimated_end(self, start: Tensor, tableau: Tableau) -> Tensor:
        """Where a solver without guidance weights would end from these noisy starts (N, m), (N, m)."""
        return sample(self._denoiser, start, tableau)

    def _denoiser(self, y: Tensor, sigma: Tensor) -> Tensor:
        level = float(sigma[0])
        x, denoised = self.at(level)
        return denoised + self.response(level) * (y - x)

    def response(self, sigma: float) -> float:
        """J(σ). With flow matching x = (1 - σ) (x0 + n σ / (1 - σ)): there it is that of the noise level σ / (1 - σ), divided
        by 1 - σ."""
        clean = max(1 - sigma, 1e-9) if self.flow else 1.0
        noise = sigma / clean
        return self._variance / (self._variance + noise * noise) / clean

    def at(self, sigma: float) -> tuple[Tensor, Tensor]:
        """x*(σ) and D*(σ), (N, m) each; outside the levels visited the nearest is taken."""
        logs, at = self._logs, np.log(sigma)
        after = int(np.clip(np.searchsorted(-logs, -at), 1, len(logs) - 1))
        width = logs[after] - logs[after - 1]
        t = float(np.clip((at - logs[after - 1]) / width, 0.0, 1.0))
        before_slope, after_slope = (t**3 - 2 * t * t + t) * width, (t**3 - t * t) * width
        weight = 3 * t * t - 2 * t**3

        def between(values: Tensor, slopes: Tensor) -> Tensor:
            found = values[:, after - 1] * (1 - weight) + values[:, after] * weight
            return found.add_(slopes[:, after - 1], alpha=before_slope).add_(slopes[:, after], alpha=after_slope)

        return between(self.points, self.points - self.denoised), between(self.denoised, self._slopes)

    @cached_property
    def _logs(self) -> Array:
        return np.log(self.levels)

    @cached_property
    def _variance(self) -> float:
        return float(self.ends.double().var())

    @cached_property
    def _slopes(self) -> Tensor:
        """dD*/d ln σ at the levels, (N, K, m)."""
        widths = torch.from_numpy(np.diff(self._logs)).to(self.denoised)[:, None]
        steps = self.denoised.diff(dim=1) / widths
        if len(self.levels) < 3:
            return steps.expand_as(self.denoised)
        left, right = widths[:-1], widths[1:]
        inner = (steps[:, :-1] * right + steps[:, 1:] * left) / (left + right)
        first, last = 2 * steps[:, :1] - inner[:, :1], 2 * steps[:, -1:] - inner[:, -1:]
        return torch.cat([first, inner, last], dim=1)


class Recorder:
    """A callback for ``sample``: it keeps the points and outputs of one batch, step by step, as ``keep`` makes them of (B, …)."""

    def __init__(self, keep: Callable[[Tensor], Tensor]):
        self.keep = keep
        self.levels: list[float] = []
        self.points: list[Tensor] = []
        self.denoised: list[Tensor] = []

    def __call__(self, state: dict[str, Any]) -> None:
        self.levels.append(float(state["sigma"]))
        self.points.append(self.keep(state["x"]))
        self.denoised.append(self.keep(state["denoised"]))

    def path(self, ends: Tensor, flow: bool) -> TeacherPath:
        """The path, given where it ended (B, …)."""
        points, denoised = torch.stack(self.points, dim=1), torch.stack(self.denoised, dim=1)
        return TeacherPath(np.array(self.levels), points, denoised, self.keep(ends), flow)
