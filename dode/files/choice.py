"""Which of many entries is the one for a model, a guidance scale and a grid."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from dode.correction import SIGMA_TOLERANCE
from dode.errors import ParameterError
from dode.files.compatibility import compare, on_grid, same_guidance
from dode.files.interpolation import interpolate
from dode.files.parameter_file import Entry, ModelInfo


@dataclass(frozen=True)
class Choice:
    """The outcome of looking for parameters.

    Attributes:
        name, entry: what was found.
        reasons: or why nothing was, in words.
        own_grid: the entry is to run on its own noise levels, since the given ones are those of another guidance scale.
    """

    name: str = ""
    entry: Entry | None = None
    reasons: tuple[str, ...] = ()
    own_grid: bool = False


def choose(entries: Iterable[tuple[str, Entry]], model: ModelInfo, guidance: float | None, sigmas: Sequence[float]) -> Choice:
    """The first of the named entries that belongs to a model, a guidance scale and a grid (or the whole of which it is part).

    Between the scales of one file's entries it interpolates. Unlike a user who picks a file by hand, this takes no soft
    differences but one: parameters of another checkpoint of the same kind are taken if there are none of this one. Where the
    grid is the whole one of an entry for another scale, in a file with one for this scale, that is taken on its own grid:
    who asked for the noise levels did not know the scale.
    """
    second_best: Choice | None = None
    reasons: Counter[str] = Counter()
    for name, group in groupby(entries, key=lambda named: named[0]):
        there: list[Entry] = []
        for _, entry in group:
            if compare(entry, model):
                there.append(entry)
            else:
                reasons["for another kind of model"] += 1
        for found in _of_file(name, there, guidance, sigmas, reasons):
            if found.entry is not None and not compare(found.entry, model).soft:
                return found
            second_best = second_best or found
    return second_best or Choice(reasons=tuple(f"{count} {reason}" for reason, count in reasons.items()))


def _of_file(
    name: str, entries: list[Entry], guidance: float | None, sigmas: Sequence[float], reasons: Counter[str]
) -> list[Choice]:
    """The choices that one file offers, the best first; why the others are none is counted in ``reasons``."""
    at_scale: list[Entry] = [entry for entry in entries if same_guidance(entry, guidance)]
    whole = [entry for entry in entries if _same_grid(entry, sigmas)]
    for steps, model in dict.fromkeys((len(entry.parameters.sigmas), entry.model) for entry in entries):
        alike = [entry for entry in entries if (len(entry.parameters.sigmas), entry.model) == (steps, model)]
        if not any(same_guidance(entry, guidance) for entry in alike):
            try:
                at_scale.append(interpolate(alike, guidance))
            except ParameterError:
                reasons.update(f"fitted at guidance {entry.guidance:g}" for entry in alike)
    running = [Choice(name, entry) for entry in at_scale if on_grid(entry, sigmas)]
    kin = [
        Choice(name, entry, own_grid=True)
        for entry in at_scale
        if any(entry.model == other.model and not same_guidance(other, guidance) for other in whole)
        if len(entry.parameters.sigmas) == len(sigmas)
    ]
    if not running and not kin:
        reasons.update(f"for other noise levels ({len(entry.parameters.sigmas) - 1} steps)" for entry in at_scale)
    return running or kin


def _same_grid(entry: Entry, sigmas: Sequence[float]) -> bool:
    fitted = entry.parameters.sigmas
    return len(fitted) == len(sigmas) and np.allclose(fitted, sigmas, rtol=SIGMA_TOLERANCE, atol=0)
