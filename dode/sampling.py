"""The loop that runs any table, and functions with k-diffusion's sampler signature."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dode.correction import Parameters
from dode.errors import ModelError
from dode.methods import build_tableau
from dode.tableau import BASE, Prediction, Row, Tableau, Weights

# (x, sigma, **extra_args) -> Tensor or Guided. No Protocol, since a plain function that takes no more is one too.
Denoiser = Callable[..., Any]
Callback = Callable[[dict[str, Any]], None]
Sampler = Callable[..., Tensor]


class Guided(NamedTuple):
    """Both outputs of one evaluation under classifier-free guidance, where a denoiser has them.

    Attributes:
        denoised: what guidance makes of the two, D_uncond + w · (D_cond - D_uncond).
        difference: their difference D_cond - D_uncond.

    Example:
        >>> conditional, unconditional, cfg_scale = torch.ones(1, 4), torch.zeros(1, 4), 3.0
        >>> difference = conditional - unconditional
        >>> Guided(unconditional + cfg_scale * difference, difference).denoised.tolist()
        [[3.0, 3.0, 3.0, 3.0]]
    """

    denoised: Tensor
    difference: Tensor


class Walk:
    """One batch on its way through a table: the base point and the outputs still needed.

    ``drive`` takes it along the rows; ``sample`` does so for one walk to the end, the fit for many in lock-step.
    """

    def __init__(self, x: Tensor, sigma: float, prediction: Prediction, guided: bool = False):
        self.base, self.sigma, self.guided = x, sigma, guided
        self.prediction: Prediction = prediction
        self.outputs: dict[int, Tensor] = {}
        self.differences: dict[int, Tensor] = {}
        self.evaluations = 0

    def copy(self) -> "Walk":
        """The walk as it stands; going on with one of the two leaves the other where it is."""
        other = Walk(self.base, self.sigma, self.prediction, self.guided)
        other.outputs, other.differences, other.evaluations = dict(self.outputs), dict(self.differences), self.evaluations
        return other

    def record(self, y: Tensor, sigma: float, output: Tensor | Guided) -> Tensor:
        """Take the model's output for ``y`` at noise level sigma; returns the denoised tensor."""
        denoised, difference = output if isinstance(output, Guided) else (output, None)
        if self.guided and difference is None:
            raise ModelError(
                "These parameters weigh the conditional and the unconditional output, and this model gives only one of them. "
                "Use a guidance scale other than 1, or parameters that were fitted without the guidance channel."
            )
        for tensor in (denoised,) if difference is None else (denoised, difference):
            if not isinstance(tensor, Tensor) or tensor.shape != y.shape:
                got = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
                raise ModelError(f"The denoiser must return a tensor shaped like its input {tuple(y.shape)}, got {got}.")
        self.outputs[self.evaluations] = denoised if self.prediction == "data" else (y - denoised).div_(sigma)
        if self.guided and difference is not None:
            self.differences[self.evaluations] = difference
        self.evaluations += 1
        return denoised

    def combine(self, row: Row) -> Tensor:
        """The row's result."""
        scale = row.base * (row.sigma / self.sigma if self.prediction == "data" else 1.0)
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
        for index, weight in row.guidance_weights:
            y.add_(self.differences[index], alpha=weight)
        return y

    def weigh(self, weights: Weights) -> Tensor:
        """A combination of outputs in float64, with ``BASE`` for the base point; 0 if there is none."""
        terms = [weight * (self.base if index == BASE else self.outputs[index]).double() for index, weight in weights]
        return sum(terms, torch.zeros_like(self.base, dtype=torch.float64))

    def advance(self, row: Row) -> Tensor:
        """Take a row, and make its result the new base point where the row says so; returns the result."""
        y = self.combine(row)
        if row.commit:
            self.base, self.sigma = y, row.sigma
        return y

    def forget(self, last_use: tuple[int, ...], number: int) -> None:
        """Drop the outputs that no row after this one refers to."""
        for index in [i for i in self.outputs if last_use[i] <= number]:
            del self.outputs[index]
            self.differences.pop(index, None)


def drive(
    walk: Walk, tableau: Tableau, evaluate: Callable[[int, Tensor], object], first: int = 0, forget: bool = True
) -> Iterator[int]:
    """Take a walk along the rows of a table: the loop.

    Args:
        walk: stands before row ``first``, with the evaluations made that are due by then.
        evaluate: ``evaluate(number of the evaluation, y)`` runs the model and records the output in the walk.
        forget: drop outputs that are not needed any more.

    Yields:
        the number of each row, before it is taken. Afterwards ``walk.base`` is the result.
    """
    for number in range(first, len(tableau.rows)):
        yield number
        row = tableau.rows[number]
        y = walk.advance(row)
        if forget:
            walk.forget(tableau.last_use, number)
        if row.evaluate:
            evaluate(walk.evaluations, y)


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
        denoiser: ``denoiser(x, sigma, **extra_args)`` with sigma (B,) returns the denoised batch (an estimate of x0), or
            ``Guided``. A table with guidance weights needs the latter.
        x: the noisy batch (B, …) at ``tableau.sigma``, that is noise times σ for a variance-exploding model. Not modified.
        tableau: from ``build_tableau`` or ``Parameters.tableau``.
        extra_args: passed to the denoiser.
        callback: called once a step, before its update, with k-diffusion's dict: x, i, sigma, sigma_hat, denoised.
        disable: no progress bar (needs tqdm; without it there is none). None shows one on a terminal only.

    Returns:
        The batch at the table's last σ, in x's dtype and on its device.

    Raises:
        ModelError: the denoiser returned something of another shape.

    Example:
        >>> table = build_tableau("euler", [10.0, 3.0, 0.0])
        >>> sample(lambda x, sigma: 0.5 * x, 10 * torch.ones(1, 2), table).tolist()
        [[3.25, 3.25]]
    """
    arguments = dict(extra_args or {})
    ones = x.new_ones([x.shape[0]])
    told = tableau.model_sigmas or tableau.evaluation_sigmas
    levels = torch.tensor(told, dtype=torch.float64).to(x.dtype).to(x.device)
    walk = Walk(x, tableau.sigma, tableau.prediction, tableau.guided)
    denoised: Tensor | None = None

    def evaluate(number: int, y: Tensor) -> None:
        nonlocal denoised
        output = denoiser(y, levels[number] * ones, **arguments)
        found = walk.record(y, tableau.evaluation_sigmas[number], output)
        denoised = None if callback is None else found  # only a callback needs it beside what the walk keeps

    evaluate(0, x)
    step, starting = 0, True
    with _progress_bar(len(tableau.sigmas) - 1, disable) as bar:
        for number in drive(walk, tableau, evaluate):
            if starting and callback is not None:
                level = levels[walk.evaluations - 1]
                callback({"x": walk.base, "i": step, "sigma": level, "sigma_hat": level, "denoised": denoised})
            starting = tableau.rows[number].commit
            if starting:
                step += 1
                if bar is not None:
                    bar.update()
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

    Example:
        >>> sampler = make_sampler("dpmpp_2m")
        >>> sampler(lambda x, sigma: 0 * x, torch.ones(1, 3), torch.tensor([10.0, 3.0, 0.0]), disable=True).tolist()
        [[0.0, 0.0, 0.0]]
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
