"""D-ODE as a row edit: distilled parameters, and what they do to a solver's table.

The paper adds λ times the difference of two successive model outputs to an update. On a table this moves weight from one
evaluation to the next and keeps the row's sum, so the solver stays consistent and costs what it cost before:

    y += Σ_k λ_k · h · (e_{m-k} - e_{m-k-1})        k = 0 … taps-1

with e the denoised ("data") or noise ("noise") outputs, e_m the newest, and h the row's increment (1 - σ_row/σ_base, or
σ_row - σ_base). Because of h, λ has no unit: it does not change with the scale of σ, and λ = 1/2 turns Euler on a uniform
grid into the two-step Adams-Bashforth method. The official code adds λ · (e_m - e_{m-1}) without h; its λ is ours times h.
In the stages of DPM-Solver-3 the paper's λ stands inside the bracket that the solver multiplies by another number than h; the
direction is the same one.

Under classifier-free guidance a row may also add Σ_k γ_k · (1 - σ_row/σ_base) · G_{m-k}, with G = D_cond - D_uncond: the
guidance scale of the step changes by γ_0. And the model may be told another noise level than the true one. Both are our own.

The first row has no earlier output and stays as it is. The paper does so in data prediction; in noise prediction its first
step takes the noisy batch x for the missing output, ε - x, which costs consistency: the step would no longer be exact for a
constant ε.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from dode.errors import ParameterError
from dode.methods import build_tableau, get_method
from dode.tableau import PREDICTIONS, Array, Converter, Prediction, Row, Tableau, check_sigmas, increment

MAX_TAPS = 16
MAX_TOLD_RATIO = 4.0
SIGMA_TOLERANCE = 1e-4  # relative; float32 schedules differ from float64 ones by about 1e-6


def edit_row(row: Row, sigma_base: float, prediction: Prediction, evaluations: int, values: Sequence[float] | Array) -> Row:
    """Add the corrections of one row; ``values`` (taps,) beyond the evaluations at hand are not used."""
    h = increment(prediction, sigma_base, row.sigma)
    weights = dict(row.weights)
    for k, value in enumerate(values[: max(evaluations - 1, 0)]):
        if value:
            newest = evaluations - 1 - k
            weights[newest] = weights.get(newest, 0.0) + float(value) * h
            weights[newest - 1] = weights.get(newest - 1, 0.0) - float(value) * h
    return replace(row, weights=tuple(sorted(weights.items())))


def add_guidance(row: Row, sigma_base: float, evaluations: int, values: Sequence[float] | Array) -> Row:
    """Add a row's weights of the guidance directions; ``values`` (taps,) newest first, beyond those at hand not used."""
    h = increment("data", sigma_base, row.sigma)
    weights = dict(row.guidance)
    for k, value in enumerate(values[:evaluations]):
        if value:
            weights[evaluations - 1 - k] = weights.get(evaluations - 1 - k, 0.0) + float(value) * h
    return replace(row, guidance=tuple(sorted(weights.items())))


def correct(
    base: Tableau,
    directions: Prediction,
    values: Array,
    strength: float = 1.0,
    guidance: Array | None = None,
    model_sigmas: tuple[float, ...] | None = None,
) -> Tableau:
    """Apply corrections to a solver: ``values`` (rows, taps) and ``guidance`` (rows, taps), scaled by ``strength``, and the
    noise levels that the model is told, (NFE,), moved as far from the true ones. All zero gives ``base`` itself."""
    values = np.asarray(values, dtype=np.float64) * strength
    added = np.zeros((len(base.rows), 0)) if guidance is None else np.asarray(guidance, dtype=np.float64) * strength
    told = None
    if model_sigmas is not None and strength:
        told = tuple(s * (t / s) ** strength for s, t in zip(base.evaluation_sigmas, model_sigmas, strict=True))
    if not values.any() and not added.any() and told is None:
        return base
    converter = Converter(base, directions)
    for row, row_values, row_added in zip(base.rows, values, added, strict=True):
        edited = edit_row(converter.convert(row), converter.sigma, directions, converter.evaluations, row_values)
        converter.append(add_guidance(edited, converter.sigma, converter.evaluations, row_added))
    return converter.tableau(told)


def available_taps(tableau: Tableau) -> Array:
    """For each row, how many successive differences of outputs exist when it is computed, (rows,)."""
    evaluations = np.cumsum([1, *(row.evaluate for row in tableau.rows[:-1])])
    return evaluations - 1


@dataclass(frozen=True, eq=False)
class Parameters:
    """A distilled sampler: a solver on a grid and its per-row corrections.

    Attributes:
        method, order: the base solver, as in ``build_tableau``.
        directions: whether successive denoised ("data") or noise ("noise") outputs are differenced.
        sigmas: the grid (n+1,) the corrections were fitted on, descending, last may be 0.
        values: λ, float64 (rows of the solver's table, taps); zero where a row has no such difference yet.
        coordinate: the half log-SNR of the model's schedule, as in ``build_tableau``.
        guidance: γ, float64 (rows, taps), weights of the guidance directions, newest first; None or zero without that channel.
        model_sigmas: the noise level that the model is told at each evaluation, (NFE,); None where it is the true one.

    Raises:
        ParameterError, GridError, MethodError: on construction, if the parts do not fit together.
    """

    method: str
    order: int
    directions: Prediction
    sigmas: tuple[float, ...]
    values: Array
    coordinate: str = "log_sigma"
    guidance: Array | None = None
    model_sigmas: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.directions not in PREDICTIONS:
            raise ParameterError(f"directions must be 'data' or 'noise', got {self.directions!r}.")
        object.__setattr__(self, "method", get_method(self.method).name)
        object.__setattr__(self, "sigmas", tuple(check_sigmas(self.sigmas).tolist()))
        values = np.array(self.values, dtype=np.float64)
        values.setflags(write=False)
        object.__setattr__(self, "values", values)
        base = self.base()
        if values.ndim != 2 or values.shape[0] != len(base.rows) or not 1 <= values.shape[1] <= MAX_TAPS:
            raise ParameterError(
                f"{self.method!r} on {len(self.sigmas) - 1} steps needs values of shape ({len(base.rows)}, 1 to {MAX_TAPS}), "
                f"got {values.shape}."
            )
        if not np.isfinite(values).all():
            raise ParameterError(f"values must be finite, row {int(np.argwhere(~np.isfinite(values))[0, 0])} is not.")
        unusable = np.arange(values.shape[1])[None, :] >= available_taps(base)[:, None]
        if values[unusable].any():
            row = int(np.argwhere(unusable & (values != 0))[0, 0])
            raise ParameterError(f"Row {row} has a parameter for a difference of outputs that does not exist yet there.")
        self._check_channel(base)
        self._check_told(base)

    def _check_channel(self, base: Tableau) -> None:
        if self.guidance is None:
            return
        guidance = np.array(self.guidance, dtype=np.float64)
        guidance.setflags(write=False)
        object.__setattr__(self, "guidance", guidance)
        if guidance.ndim != 2 or guidance.shape[0] != len(base.rows) or not 1 <= guidance.shape[1] <= MAX_TAPS:
            raise ParameterError(f"guidance must have shape ({len(base.rows)}, 1 to {MAX_TAPS}), got {guidance.shape}.")
        missing = np.arange(guidance.shape[1])[None, :] > available_taps(base)[:, None]
        if not np.isfinite(guidance).all() or guidance[missing].any():
            raise ParameterError("guidance must be finite, and zero for evaluations that a row does not have yet.")

    def _check_told(self, base: Tableau) -> None:
        if self.model_sigmas is None:
            return
        told = tuple(float(s) for s in self.model_sigmas)
        object.__setattr__(self, "model_sigmas", told)
        limit = MAX_TOLD_RATIO
        if len(told) != base.evaluations or not all(
            s / limit <= t <= s * limit for s, t in zip(base.evaluation_sigmas, told, strict=True)
        ):
            raise ParameterError(
                f"model_sigmas must be {base.evaluations} levels within a factor of {limit:g} of the true ones, got {told}."
            )

    def base(self) -> Tableau:
        """The undistilled solver on the fitted grid."""
        return self._base

    @cached_property
    def _base(self) -> Tableau:
        return build_tableau(self.method, self.sigmas, self.order, self.coordinate)

    def tableau(self, sigmas: Sequence[float] | Array | None = None, strength: float = 1.0) -> Tableau:
        """The distilled solver.

        Args:
            sigmas: the grid to run on: the fitted one (default) or a contiguous part of it, as image-to-image and split
                schedules use. A part that starts later starts without history, like the base solver does.
            strength: scales all corrections; 0 is the base solver, 1 is as fitted.

        Raises:
            ParameterError: the grid is not part of the fitted one, or strength is not finite.
        """
        if not np.isfinite(strength):
            raise ParameterError(f"strength must be a finite number, got {strength}.")
        if sigmas is None:
            return correct(self.base(), self.directions, self.values, strength, self.guidance, self.model_sigmas)
        grid = check_sigmas(sigmas)
        first = self._find(grid)
        part = build_tableau(self.method, grid, self.order, self.coordinate)
        rows = _matching_rows(part, self.base(), first)
        if rows is None:
            raise ParameterError(f"{self.method!r} takes other stages on this part of its grid; run it on the whole grid.")
        guidance = None if self.guidance is None else self.guidance[rows]
        return correct(part, self.directions, self.values[rows], strength, guidance, self._told_on(part, rows, first))

    def _told_on(self, part: Tableau, rows: list[int], first: int) -> tuple[float, ...] | None:
        """What the model is told at the evaluations of a solver on a part of the grid, whose rows are these of the whole."""
        if self.model_sigmas is None:
            return None
        whole = self.base()
        number_after = np.cumsum([1, *(row.evaluate for row in whole.rows)]) - 1  # of the newest evaluation, by rows taken
        start = sum(len(step) for step in _by_step(whole)[:first])
        found = [self.model_sigmas[number_after[start]]]
        for row, mine in zip(rows, part.rows, strict=True):
            if mine.evaluate:
                found.append(self.model_sigmas[number_after[row + 1]] if whole.rows[row].evaluate else mine.sigma)
        return tuple(found)

    def _find(self, grid: Array) -> int:
        fitted = np.array(self.sigmas)
        for first in range(len(fitted) - len(grid) + 1):
            if _same(fitted[first : first + len(grid)], grid):
                return first
        raise ParameterError(
            f"These parameters were fitted on the {len(fitted) - 1}-step grid {brief(fitted)}; {brief(grid)} is no part "
            "of it. Sample on the fitted grid, or distill for this one."
        )


def _same(sigmas: Sequence[float] | Array, others: Sequence[float] | Array) -> bool:
    return len(sigmas) == len(others) and np.allclose(sigmas, others, rtol=SIGMA_TOLERANCE, atol=0)


def _by_step(tableau: Tableau) -> list[list[int]]:
    """The numbers of the rows of each step."""
    steps: list[list[int]] = [[]]
    for number, row in enumerate(tableau.rows):
        steps[-1].append(number)
        if row.commit:
            steps.append([])
    return steps[:-1]


def _matching_rows(part: Tableau, whole: Tableau, first: int) -> list[int] | None:
    """For each row of a solver on a part of a grid, the row of the whole that does the same, or None if one is missing.

    The whole may have more: some solvers take fewer stages in the last steps of their grid, no corrector or no look ahead.
    """
    found: list[int] = []
    for mine, theirs in zip(_by_step(part), _by_step(whole)[first:], strict=False):
        left = iter(theirs)
        for number in mine:
            match = next((row for row in left if _same([whole.rows[row].sigma], [part.rows[number].sigma])), None)
            if match is None:
                return None
            found.append(match)
    return found if len(found) == len(part.rows) else None


def brief(sigmas: Sequence[float] | Array) -> str:
    """Noise levels as a short text."""
    shown = [f"{s:.4g}" for s in sigmas]
    return "[" + ", ".join(shown if len(shown) <= 12 else [*shown[:5], "…", *shown[-5:]]) + "]"
