"""D-ODE as a row edit: distilled parameters, and what they do to a solver's table.

The paper adds λ times the difference of two successive model outputs to an update. On a table this moves weight from one
evaluation to the next and keeps the row's sum, so the solver stays consistent and costs what it cost before:

    y += Σ_k λ_k · h · (e_{m-k} - e_{m-k-1})        k = 0 … taps-1

with e the denoised ("data") or noise ("noise") outputs, e_m the newest, and h the row's increment (1 - σ_row/σ_base, or
σ_row - σ_base). For solvers that combine several outputs, iPNDM and DEIS, the paper takes for e_m the combination that the row
itself uses, Σ w_j ε_j / Σ w_j, and for e_{m-1} that of the row before ("slopes"). Such a difference moves weight between
outputs like the others, and where each row uses one output it is the same as "noise".

Because of h, λ has no unit: it does not change with the scale of σ, and λ = 1/2 turns Euler on a uniform grid into the two-step
Adams-Bashforth method. The official code adds λ · (e_m - e_{m-1}) without h; its λ is ours times h.
In the stages of DPM-Solver-3 the paper's λ stands inside the bracket that the solver multiplies by another number than h; the
direction is the same one.

Under classifier-free guidance a row may also add Σ_k γ_k · (1 - σ_row/σ_base) · G_{m-k}, with G = D_cond - D_uncond: the
guidance scale of the step changes by γ_0. And the model may be told another noise level than the true one. Both are our own.

The first row has no earlier output and stays as it is, in the paper too where outputs are denoised ones. Where they are noise,
the official code takes for the missing one the noisy batch, brought to the variance of noise: λ · h · (ε_0 - x). That costs
consistency, for the row is no longer exact for a constant ε, and hardly changes the result (docs/paper.md), so it is an option.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from dode.coordinate import scale_to_unit
from dode.errors import ParameterError
from dode.methods import build_tableau, get_method
from dode.tableau import (
    BASE,
    DIRECTIONS,
    Array,
    Converter,
    Directions,
    Prediction,
    Row,
    Tableau,
    Weights,
    check_sigmas,
    increment,
)

MAX_TAPS = 16
MAX_TOLD_RATIO = 4.0
SIGMA_TOLERANCE = 1e-4  # relative; float32 schedules differ from float64 ones by about 1e-6


def form_of(directions: Directions) -> Prediction:
    """The form of the table in which these differences are weights."""
    return "data" if directions == "data" else "noise"


class RowEditor:
    """Takes a solver's rows in order and adds corrections to them.

    Attributes:
        base: the solver.
        form: of the rows as they are given and taken: "data" or "noise".

    Example:
        >>> editor = RowEditor(build_tableau("euler", [10.0, 1.0, 0.1]), "data")
        >>> for base_row in editor.base.rows:
        ...     row, h, differences = editor.begin(base_row)
        ...     row = editor.take(row, [0.1])
        >>> distilled = editor.tableau()
    """

    def __init__(self, base: Tableau, directions: Directions, start: float | None = None):
        """``start``: the first row may be corrected by ε_0 - start · x, with x the noisy batch; None leaves that row alone."""
        self.base, self._directions = base, directions
        self._start = start if directions != "data" else None
        self.form: Prediction = form_of(directions)
        self._converter = Converter(base, self.form)
        self._slopes: list[dict[int, float]] = []
        self._h, self._differences = 0.0, list[Weights]()

    def begin(self, base_row: Row) -> tuple[Row, float, list[Weights]]:
        """What the base solver does from here: its row, the increment h, and the differences that a correction may add, newest
        first, as weights of the outputs that sum to 0, or in the first row of the base point and an output."""
        row, evaluations = self._converter.convert(base_row), self._converter.evaluations
        self._h = increment(self.form, self._converter.sigma, row.sigma)
        if self._directions == "slopes":
            total = sum(weight for _, weight in row.weights)
            self._slopes.append({index: weight / total for index, weight in row.weights} if total else {})
            self._differences = [
                _difference(self._slopes[-1 - k], self._slopes[-2 - k]) for k in range(min(evaluations, len(self._slopes)) - 1)
            ]
        else:
            self._differences = [((m - 1, -1.0), (m, 1.0)) for m in range(evaluations - 1, 0, -1)]
        if evaluations == 1 and self._start is not None:
            self._differences = [((BASE, -self._start), (0, 1.0))]
        return row, self._h, self._differences

    def take(self, row: Row, values: Sequence[float] | Array, guidance: Sequence[float] | Array = ()) -> Row:
        """Add the corrections of the row just begun, ``values`` (taps,) and ``guidance`` (taps,), newest first; what is beyond
        those at hand is not used. Returns the row as it is taken."""
        weights, added, base = dict(row.weights), dict(row.guidance_weights), row.base
        for value, difference in zip(values, self._differences, strict=False):
            for index, weight in difference if value else ():
                if index == BASE:
                    base += float(value) * self._h * weight
                else:
                    weights[index] = weights.get(index, 0.0) + float(value) * self._h * weight
        h = increment("data", self._converter.sigma, row.sigma)
        newest = self._converter.evaluations - 1
        for k, value in enumerate(guidance[: newest + 1]):
            if value:
                added[newest - k] = added.get(newest - k, 0.0) + float(value) * h
        row = replace(row, weights=tuple(sorted(weights.items())), guidance_weights=tuple(sorted(added.items())), base=base)
        self._converter.append(row)
        return row

    def tableau(self, model_sigmas: tuple[float, ...] | None = None) -> Tableau:
        """The rows taken so far as a solver; ``model_sigmas`` as in ``Tableau``."""
        return self._converter.tableau(model_sigmas)


def _difference(one: dict[int, float], other: dict[int, float]) -> Weights:
    found = {index: one.get(index, 0.0) - other.get(index, 0.0) for index in sorted({*one, *other})}
    return tuple((index, weight) for index, weight in found.items() if weight)


def correct(
    base: Tableau,
    directions: Directions,
    values: Array,
    strength: float = 1.0,
    guidance: Array | None = None,
    model_sigmas: tuple[float, ...] | None = None,
    start: float | None = None,
) -> Tableau:
    """Apply corrections to a solver: ``values`` (rows, taps) and ``guidance`` (rows, taps), scaled by ``strength``, and the
    noise levels that the model is told, (NFE,), moved as far from the true ones. All zero gives ``base`` itself. ``start`` as
    in ``RowEditor``."""
    values = np.asarray(values, dtype=np.float64) * strength
    added = np.zeros((len(base.rows), 0)) if guidance is None else np.asarray(guidance, dtype=np.float64) * strength
    told = None
    if model_sigmas is not None and strength:
        told = tuple(s * (t / s) ** strength for s, t in zip(base.evaluation_sigmas, model_sigmas, strict=True))
    if not values.any() and not added.any() and told is None:
        return base
    editor = RowEditor(base, directions, start)
    for base_row, row_values, row_added in zip(base.rows, values, added, strict=True):
        row, _, _ = editor.begin(base_row)
        editor.take(row, row_values, row_added)
    return editor.tableau(told)


def available_taps(tableau: Tableau) -> Array:
    """For each row, how many successive differences of outputs exist when it is computed, (rows,)."""
    evaluations = np.cumsum([1, *(row.evaluate for row in tableau.rows[:-1])])
    return evaluations - 1


@dataclass(frozen=True, eq=False)
class Parameters:
    """A distilled sampler: a solver on a grid and its per-row corrections.

    Attributes:
        method, order: the base solver, as in ``build_tableau``.
        directions: whether successive denoised ("data") or noise ("noise") outputs are differenced, or the combinations of
            noise outputs that successive rows use ("slopes").
        sigmas: the grid (n+1,) the corrections were fitted on, descending, last may be 0.
        values: λ, float64 (rows of the solver's table, taps); zero where a row has no such difference yet. In the first row it
            is that of the noisy start, in "noise" and "slopes" only.
        coordinate: the half log-SNR of the model's schedule, as in ``build_tableau``.
        guidance: γ, float64 (rows, taps), weights of the guidance differences, newest first; None or zero without that channel.
        model_sigmas: the noise level that the model is told at each evaluation, (NFE,); None where it is the true one.

    Raises:
        ParameterError, GridError, MethodError: on construction, if the parts do not fit together.

    Example:
        >>> parameters = Parameters("euler", 1, "data", (10.0, 3.0, 1.0, 0.0), [[0.0], [0.2], [0.1]])
        >>> parameters.tableau() == parameters.base(), parameters.tableau(strength=0.0) == parameters.base()
        (False, True)
    """

    method: str
    order: int
    directions: Directions
    sigmas: tuple[float, ...]
    values: Array
    coordinate: str = "log_sigma"
    guidance: Array | None = None
    model_sigmas: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.directions not in DIRECTIONS:
            raise ParameterError(f"directions must be one of {', '.join(DIRECTIONS)}, got {self.directions!r}.")
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
        usable = available_taps(base)
        usable[0] = self.directions != "data"
        unusable = np.arange(values.shape[1])[None, :] >= usable[:, None]
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
        start = scale_to_unit(self.coordinate, self.sigmas[0])
        if sigmas is None:
            return correct(self.base(), self.directions, self.values, strength, self.guidance, self.model_sigmas, start)
        grid = check_sigmas(sigmas)
        first = self._find(grid)
        part = build_tableau(self.method, grid, self.order, self.coordinate)
        if first:  # the steps of some solvers span several intervals
            level, steps = self.sigmas[first], self.base().sigmas
            first = steps.index(level) if level in steps else None
        rows = None if first is None else _matching_rows(part, self.base(), first)
        if first is None or rows is None:
            raise ParameterError(f"{self.method!r} takes other stages on this part of its grid; run it on the whole grid.")
        guidance = None if self.guidance is None else self.guidance[rows]
        told, start = self._told_on(part, rows, first), None if first else start
        return correct(part, self.directions, self.values[rows], strength, guidance, told, start)

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
        first = position(grid.tolist(), self.sigmas)
        if first is None:
            raise ParameterError(
                f"These parameters were fitted on the {len(self.sigmas) - 1}-step grid {brief(self.sigmas)}; {brief(grid)} is "
                "no part of it. Sample on the fitted grid, or distill for this one."
            )
        return first


def position(sigmas: Sequence[float], whole: Sequence[float]) -> int | None:
    """At which level of a whole grid noise levels begin that are a contiguous part of it; None where they are none.

    Example:
        >>> position([3.0, 1.0], [10.0, 3.0, 1.0, 0.0])
        1
    """
    for first in range(len(whole) - len(sigmas) + 1):
        if all(_same(whole[first + i], level) for i, level in enumerate(sigmas)):
            return first
    return None


def _same(sigma: float, other: float) -> bool:
    return abs(sigma - other) <= SIGMA_TOLERANCE * abs(other)


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

    The part begins with the whole's step ``first``. The whole may have more rows: some solvers take fewer stages in the last
    steps of their grid, no corrector or no look ahead.
    """
    found: list[int] = []
    for mine, theirs in zip(_by_step(part), _by_step(whole)[first:], strict=False):
        left = iter(theirs)
        for number in mine:
            match = next((row for row in left if _same(whole.rows[row].sigma, part.rows[number].sigma)), None)
            if match is None:
                return None
            found.append(match)
    return found if len(found) == len(part.rows) else None


def brief(sigmas: Sequence[float] | Array) -> str:
    """Noise levels as a short text."""
    shown = [f"{s:.4g}" for s in sigmas]
    return "[" + ", ".join(shown if len(shown) <= 12 else [*shown[:5], "…", *shown[-5:]]) + "]"
