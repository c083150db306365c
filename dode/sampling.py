"""The loop that runs any table, and functions with k-diffusion's sampler signature."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from dode.correction import Parameters
from dode.errors import ModelError
from dode.methods import build_tableau
from dode.tableau import Prediction, Row, Tableau

Denoiser = Callable[..., Tensor]
Callback = Callable[[dict[str, Any]], None]
Sampler = Callable[..., Tensor]


class Walk:
    """One batch on its way through a table: the base point and the outputs still needed.

    This is the loop's body; ``sample`` drives one walk to the end, the fit drives many in lock-step.
    """

    def __init__(self, x: Tensor, sigma: float, prediction: Prediction):
        self.base, self.sigma, self.prediction = x, sigma, prediction
        self.outputs: dict[int, Tensor] = {}
        self.evaluations = 0

    def record(self, y: Tensor, sigma: float, denoised: Tensor) -> None:
        """Take the denoised output of the evaluation at ``y``."""
        if not isinstance(denoised, Tensor) or denoised.shape != y.shape:
            got = tuple(denoised.shape) if isinstance(denoised, Tensor) else type(denoised).__name__
            raise ModelError(f"The denoiser must return a tensor shaped like its input {tuple(y.shape)}, got {got}.")
        self.outputs[self.evaluations] = denoised if self.prediction == "data" else (y - denoised).div_(sigma)
        self.evaluations += 1

    def combine(self, row: Row) -> Tensor:
        """The row's result."""
        scale = row.sigma / self.sigma if self.prediction == "data" else 1.0
        weights = iter(row.weights)
        if scale == 0:  # the last step keeps nothing of x
            index, weight = next(weights)
            y = self.outputs[index] * weight
        elif scale == 1 and row.weights:
            index, weight = next(weights)
            y = torch.add(self.base, self.outputs[index], alpha=weight)
        else:
            y = self.base * scale
        for index, weight in weights:
            y.add_(self.outputs[index], alpha=weight)
        return y

    def commit(self, y: Tensor, row: Row) -> None:
        """Make a row's result the new base point."""
        self.base, self.sigma = y, row.sigma


def sample(
    denoiser: Denoiser,
    x: Tensor,
    tableau: Tableau,
    *,
    extra_args: Mapping[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = True,
) -> Tensor:
    """Run a table. Every sampler here, distilled or not, is this loop.

    Args:
        denoiser: ``denoiser(x, sigma, **extra_args)`` with sigma (B,) returns the denoised batch (an estimate of x0).
        x: the noisy batch (B, …) at ``tableau.sigma``, that is noise times σ for a variance-exploding model. Not modified.
        tableau: from ``build_tableau`` or ``Parameters.tableau``.
        extra_args: passed to the denoiser.
        callback: called once a step, before its update, with k-diffusion's dict: x, i, sigma, sigma_hat, denoised.
        disable: no progress bar (needs tqdm; without it there is none). None shows one on a terminal only.

    Returns:
        The batch at the table's last σ, in x's dtype and on its device.

    Raises:
        ModelError: the denoiser returned something of another shape.
    """
    arguments = dict(extra_args or {})
    ones = x.new_ones([x.shape[0]])
    levels = torch.tensor(tableau.evaluation_sigmas, dtype=torch.float64).to(x.dtype).to(x.device)
    walk = Walk(x, tableau.sigma, tableau.prediction)

    def evaluate(y: Tensor) -> Tensor | None:
        number = walk.evaluations
        denoised = denoiser(y, levels[number] * ones, **arguments)
        walk.record(y, tableau.evaluation_sigmas[number], denoised)
        return None if callback is None else denoised  # only a callback needs it beside what the walk keeps

    denoised = evaluate(x)
    step, starting = 0, True
    with _progress_bar(len(tableau.sigmas) - 1, disable) as bar:
        for number, row in enumerate(tableau.rows):
            if starting and callback is not None:
                level = levels[walk.evaluations - 1]
                callback({"x": walk.base, "i": step, "sigma": level, "sigma_hat": level, "denoised": denoised})
            y = walk.combine(row)
            for index in [i for i in walk.outputs if tableau.last_use[i] <= number]:
                del walk.outputs[index]
            if row.commit:
                walk.commit(y, row)
                step += 1
                if bar is not None:
                    bar.update()
            if row.evaluate:
                denoised = evaluate(y)
            starting = row.commit
    return walk.base


def _progress_bar(total: int, disable: bool | None) -> Any:
    if disable is not True:
        try:
            from tqdm.auto import tqdm
        except ImportError:
            pass
        else:
            return tqdm(total=total, disable=disable)
    return nullcontext()


def make_sampler(
    source: str | Parameters, *, order: int | None = None, coordinate: str = "log_sigma", strength: float = 1.0
) -> Sampler:
    """A function with k-diffusion's sampler signature: ``f(model, x, sigmas, extra_args=None, callback=None, disable=None)``.

    Args:
        source: the name of a solver, or distilled parameters. Parameters run on the grid they were fitted on or a contiguous
            part of it; see ``Parameters.tableau``.
        order, coordinate, strength: as in ``build_tableau`` and ``Parameters.tableau``.

    Raises:
        When called: GridError for unusable sigmas, ParameterError where the parameters do not belong to the grid.
    """

    def sampler(
        model: Denoiser,
        x: Tensor,
        sigmas: Tensor,
        extra_args: Mapping[str, Any] | None = None,
        callback: Callback | None = None,
        disable: bool | None = None,
    ) -> Tensor:
        if len(sigmas) < 2:
            return x
        grid = torch.as_tensor(sigmas).tolist()
        if isinstance(source, Parameters):
            tableau = source.tableau(grid, strength)
        else:
            tableau = build_tableau(source, grid, order, coordinate)
        return sample(model, x, tableau, extra_args=extra_args, callback=callback, disable=disable)

    sampler.__name__ = f"sample_dode_{source.method}" if isinstance(source, Parameters) else f"sample_{source}"
    return sampler
