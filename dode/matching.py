"""Does a parameter file's entry belong to a model? Compared field by field, and said in words.

Between two guidance scales at which a sampler was fitted lie the samplers of the scales between: ``interpolate``.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

import numpy as np

from dode.correction import SIGMA_TOLERANCE, brief
from dode.errors import DodeError, ParameterError
from dode.parameter_file import Entry, ModelInfo
from dode.tableau import Array

_GUIDANCE_TOLERANCE = 0.01


Verdict = Literal["same", "unknown", "soft", "hard"]


@dataclass(frozen=True)
class Compared:
    """One thing that was compared.

    Attributes:
        what: "architecture", "prediction kind", "latent channels", "σ grid", "guidance", "checkpoint name" or "fingerprint".
        verdict: "same"; "unknown" where either side does not say; "soft" for a difference with which the parameters may
            still help, or not; "hard" for one with which they make no sense.
        words: what both sides say.
    """

    what: str
    verdict: Verdict
    words: str

    def __str__(self) -> str:
        return f"{self.what}: {self.words}"


@dataclass(frozen=True)
class Match:
    """An entry and a model, compared thing by thing. True where the entry may be used."""

    compared: tuple[Compared, ...] = ()

    @property
    def hard(self) -> tuple[str, ...]:
        """Differences with which the parameters make no sense, in words."""
        return tuple(each.words for each in self.compared if each.verdict == "hard")

    @property
    def soft(self) -> tuple[str, ...]:
        """Differences with which they may still help, or not, in words."""
        return tuple(each.words for each in self.compared if each.verdict == "soft")

    def __bool__(self) -> bool:
        return not self.hard


def compare(entry: Entry, model: ModelInfo, guidance: float | None = None, sigmas: Sequence[float] | None = None) -> Match:
    """Compare an entry with a model, and where they are known with a guidance scale and noise levels.

    Args:
        model: the model at hand.
        guidance: its classifier-free guidance scale; None where there is no single one.
        sigmas: the noise levels to sample on; None where they are not known yet.
    """
    fitted = entry.model
    family = "" if fitted.family == "None" else fitted.family  # what version 0.1.0 wrote for the host's own checkpoints
    return Match(
        (
            _kind("architecture", "the architecture", family, model.family),
            _kind("prediction kind", "the prediction kind", fitted.prediction, model.prediction),
            _kind("latent channels", "latents with channels", fitted.channels, model.channels),
            _grid(entry, sigmas),
            _guidance(entry, guidance),
            *_checkpoint(fitted, model),
        )
    )


def _kind(what: str, name: str, ours: str | int | None, theirs: str | int | None) -> Compared:
    if not ours or not theirs:
        return Compared(
            what, "unknown", "not said" + (f" in the file; this model has {theirs!r}" if theirs else " of this model")
        )
    if ours == theirs:
        return Compared(what, "same", str(ours))
    return Compared(what, "hard", f"fitted for {name} {ours!r}, this model has {theirs!r}")


def _grid(entry: Entry, sigmas: Sequence[float] | None) -> Compared:
    steps = len(entry.parameters.sigmas) - 1
    if sigmas is None:
        return Compared("σ grid", "unknown", f"fitted on {brief(entry.parameters.sigmas)}")
    try:
        entry.parameters.tableau(sigmas)
    except DodeError as error:
        return Compared("σ grid", "hard", str(error).rstrip("."))
    taken = len(sigmas) - 1
    return Compared("σ grid", "same", f"all {steps} steps" if taken == steps else f"{taken} of its {steps} steps")


def _guidance(entry: Entry, guidance: float | None) -> Compared:
    if entry.guidance is None or guidance is None:
        known = "not said in the file" if entry.guidance is None else f"fitted at {entry.guidance:g}"
        return Compared("guidance", "unknown", known)
    if same_guidance(entry, guidance):
        return Compared("guidance", "same", f"{entry.guidance:g}")
    return Compared("guidance", "soft", f"fitted at guidance {entry.guidance:g}, this is {guidance:g}")


def _checkpoint(fitted: ModelInfo, model: ModelInfo) -> tuple[Compared, Compared]:
    """Name and fingerprint. Where the fingerprints agree the name does not matter."""
    known = bool(fitted.fingerprint and model.fingerprint)
    same_weights = known and fitted.fingerprint == model.fingerprint
    if not fitted.name or not model.name:
        name = Compared("checkpoint name", "unknown", f"fitted on {fitted.name!r}" if fitted.name else "not said in the file")
    elif fitted.name == model.name:
        name = Compared("checkpoint name", "same", fitted.name)
    elif same_weights:
        name = Compared("checkpoint name", "same", f"fitted on {fitted.name!r}, renamed to {model.name!r} since")
    else:
        name = Compared("checkpoint name", "soft", f"fitted on {fitted.name!r}, this is {model.name!r}")
    if not known:
        which = "the file has none" if not fitted.fingerprint else "this model has none"
        return name, Compared("fingerprint", "unknown", which)
    if same_weights:
        return name, Compared("fingerprint", "same", "the same checkpoint")
    return name, Compared("fingerprint", "soft", "fitted on other weights (the checkpoints' fingerprints differ)")


def same_guidance(entry: Entry, guidance: float | None) -> bool:
    """Whether an entry was fitted at this guidance scale. Unknown on either side counts as the same."""
    if entry.guidance is None or guidance is None:
        return True
    return math.isclose(entry.guidance, guidance, rel_tol=_GUIDANCE_TOLERANCE)


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
    same = [entry for entry in known if same_guidance(entry, guidance)]
    if guidance is None or same:
        if not known:
            raise ParameterError("There are no parameters to choose from.")
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
    on_grid = [Choice(name, entry) for entry in at_scale if _on_grid(entry, sigmas)]
    kin = [
        Choice(name, entry, own_grid=True)
        for entry in at_scale
        if any(entry.model == other.model and not same_guidance(other, guidance) for other in whole)
        if len(entry.parameters.sigmas) == len(sigmas)
    ]
    if not on_grid and not kin:
        reasons.update(f"for other noise levels ({len(entry.parameters.sigmas) - 1} steps)" for entry in at_scale)
    return on_grid or kin


def _same_grid(entry: Entry, sigmas: Sequence[float]) -> bool:
    fitted = entry.parameters.sigmas
    return len(fitted) == len(sigmas) and np.allclose(fitted, sigmas, rtol=SIGMA_TOLERANCE, atol=0)


def _on_grid(entry: Entry, sigmas: Sequence[float]) -> bool:
    return _grid(entry, sigmas).verdict == "same"
