"""Between two guidance scales at which a sampler was fitted lie the samplers of the scales between."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from dode.errors import ParameterError
from dode.files.compatibility import same_guidance
from dode.files.parameter_file import Entry
from dode.tableau import Array


def interpolate(entries: Iterable[Entry], guidance: float | None) -> Entry:
    """The sampler for a guidance scale, from entries for one number of steps: the one fitted at it, or a blend of two.

    Two entries of the same solver, kind of numbers and model whose scales lie on both sides of the one asked for, the nearest
    such, are blended linearly in the scale; noise levels by their logarithm.

    Args:
        guidance: the scale; unknown, None, takes the first entry.

    Raises:
        ParameterError: there is none at this scale, nor on both sides of it; the message names the scales there are.
    """
    known = list(entries)
    if not known:
        raise ParameterError("There are no parameters to choose from.")
    same = [entry for entry in known if same_guidance(entry, guidance)]
    if guidance is None or same:
        return min(same, key=lambda entry: _distance(entry, guidance))
    between = [
        (above.guidance - below.guidance, below, above)
        for below in known
        for above in known
        if below.guidance is not None and above.guidance is not None and below.guidance < guidance < above.guidance
        if _alike(below, above)
    ]
    if not between:
        raise ParameterError(_out_of_reach(known, guidance))
    _, below, above = min(between, key=lambda found: found[0])
    return _blend(below, above, guidance)


def _distance(entry: Entry, guidance: float | None) -> float:
    return 0.0 if guidance is None else math.inf if entry.guidance is None else abs(entry.guidance - guidance)


def _alike(one: Entry, other: Entry) -> bool:
    """Whether there is anything between two entries. Numbers that one of them does not have are zero there."""
    same = one.model == other.model and all(
        getattr(one.parameters, name) == getattr(other.parameters, name)
        for name in ("method", "order", "directions", "coordinate")
    )
    grids = [(len(entry.parameters.sigmas), entry.parameters.sigmas[-1] == 0) for entry in (one, other)]
    channels = [entry.parameters.guidance is not None for entry in (one, other)]
    # Without guidance there is no channel to weigh, which is not the same as a weight of zero.
    return same and grids[0] == grids[1] and (channels[0] == channels[1] or 1 not in (one.guidance, other.guidance))


def _out_of_reach(known: Sequence[Entry], guidance: float) -> str:
    scales = sorted({entry.guidance for entry in known if entry.guidance is not None})
    if scales[0] < guidance < scales[-1]:
        fitted = ", ".join(f"{scale:g}" for scale in scales)
        why = "and there is nothing in between, since they are of different kinds"
    else:
        fitted = f"{scales[0]:g} to {scales[-1]:g}" if len(scales) > 1 else f"{scales[0]:g}"
        why = "which they say nothing about"
    return f"These parameters were fitted at guidance {fitted}, this is {guidance:g}: {why}. Distill at that scale too."


def _blend(below: Entry, above: Entry, guidance: float) -> Entry:
    assert below.guidance is not None
    assert above.guidance is not None
    part = (guidance - below.guidance) / (above.guidance - below.guidance)
    pair = (below.parameters, above.parameters)

    def linear(one: Array | None, other: Array | None) -> Array | None:
        both = [table for table in (one, other) if table is not None]
        if not both:
            return None
        widest = max(table.shape[1] for table in both)
        mixed = np.zeros((len(both[0]), widest))
        for table, weight in ((one, 1 - part), (other, part)):
            if table is not None:
                mixed[:, : table.shape[1]] += weight * table
        return mixed

    def levels(one: Sequence[float], other: Sequence[float]) -> tuple[float, ...]:
        return tuple(a ** (1 - part) * b**part for a, b in zip(one, other, strict=True))

    told = None
    if any(p.model_sigmas is not None for p in pair):
        told = levels(*(p.model_sigmas or p.base().evaluation_sigmas for p in pair))
    values = linear(pair[0].values, pair[1].values)
    assert values is not None
    mixed = replace(
        pair[0],
        sigmas=levels(pair[0].sigmas, pair[1].sigmas),
        values=values,
        guidance=linear(pair[0].guidance, pair[1].guidance),
        model_sigmas=told,
    )
    recipe = {**below.recipe, "interpolated_between": (below.guidance, above.guidance)} if below.recipe else {}
    return replace(below, parameters=mixed, guidance=float(guidance), report=None, recipe=recipe)
