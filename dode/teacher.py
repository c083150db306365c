"""The teacher: the same model on a finer grid that contains the student's, and the targets it gives."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from dode.errors import FitError
from dode.methods import build_tableau
from dode.sampling import Denoiser, sample
from dode.tableau import MAX_STEPS, Array, Tableau, check_sigmas

_RHO = 7.0
_SAME = 1e-4  # relative; schedules in float32


def nested_grid(sigmas: Sequence[float] | Array, substeps: int, sigma_min: float = 0.0) -> Array:
    """Subdivide every interval of a grid.

    The new points are uniform in σ^(1/7), so a Karras grid (ρ = 7, Karras et al. 2022 eq. 5) becomes the finer Karras
    grid, and an interval that ends at 0 is refined towards 0. The given σ are kept to the last bit.

    Args:
        sigmas: (n+1,), descending, last may be 0.
        substeps: intervals each one is cut into.
        sigma_min: the model's lowest noise level. Nothing below it is subdivided: it is not trained there, and all samplers go
            from there to 0 at once. If the last interval starts there it stays whole.

    Returns:
        float64 (n · substeps + 1,) or fewer at the end, descending; entry i · substeps is sigmas[i], and the last is the last.

    Raises:
        FitError: substeps below 1, or more than 1000 steps in all.
    """
    grid = check_sigmas(sigmas)
    steps = len(grid) - 1
    if substeps < 1 or steps * substeps > MAX_STEPS:
        raise FitError(f"The teacher's substeps must be 1 to {MAX_STEPS // steps} on {steps} intervals, got {substeps}.")
    roots = grid ** (1 / _RHO)
    t = np.arange(substeps) / substeps
    fine = np.append(((1 - t) * roots[:-1, None] + t * roots[1:, None]).ravel() ** _RHO, grid[-1])
    fine[::substeps] = grid
    if grid[-1] > 0 or sigma_min <= 0:
        return fine
    if grid[-2] <= sigma_min * (1 + _SAME) or substeps == 1:
        return np.append(fine[:-substeps], 0.0)
    t = np.arange(1, substeps) / (substeps - 1)
    fine[-substeps:-1] = ((1 - t) * roots[-2] + t * sigma_min ** (1 / _RHO)) ** _RHO
    return fine


@dataclass(frozen=True)
class Teacher:
    """A solver and how many of its steps one interval of the student gets (the paper's C).

    Example:
        >>> Teacher("ipndm", substeps=10).tableau([10.0, 3.0, 0.0]).evaluations
        20
    """

    method: str = "euler"
    order: int | None = None
    substeps: int = 10
    coordinate: str = "log_sigma"

    def tableau(self, sigmas: Sequence[float] | Array, sigma_min: float = 0.0) -> Tableau:
        """The teacher's table on the nested grid; ``sigma_min`` as there."""
        return build_tableau(self.method, nested_grid(sigmas, self.substeps, sigma_min), self.order, self.coordinate)

    def halved(self) -> "Teacher":
        """The same with half the substeps: how far it lies from the full one tells how far that is from the solution."""
        return replace(self, substeps=max(1, self.substeps // 2))


def trajectory(denoiser: Denoiser, x: Tensor, tableau: Tableau, every: int) -> Tensor:
    """Run a table and keep every ``every``-th step's result, and the last: (⌈steps / every⌉, B, …), like x."""
    kept: list[Tensor] = []

    def keep(state: dict[str, Tensor | int]) -> None:
        if state["i"] and int(state["i"]) % every == 0:
            kept.append(state["x"])  # type: ignore[arg-type]

    last = sample(denoiser, x, tableau, callback=keep)
    return torch.stack([*kept, last])
