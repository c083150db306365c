"""Does a parameter file's entry belong to a model? Compared field by field, and said in words."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dode.errors import DodeError
from dode.parameter_file import Entry, ModelInfo

_GUIDANCE_TOLERANCE = 0.01


@dataclass(frozen=True)
class Match:
    """What differs between the model that an entry was fitted on and the one at hand.

    Attributes:
        hard: differences with which the parameters make no sense.
        soft: differences with which they may still help, or not.
    """

    hard: tuple[str, ...] = ()
    soft: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """True where the entry may be used."""
        return not self.hard


def compare(entry: Entry, model: ModelInfo, guidance: float | None = None) -> Match:
    """Compare an entry with a model and a guidance scale. What either side does not know is not compared.

    Args:
        model: the model at hand.
        guidance: its classifier-free guidance scale; None where there is no single one.
    """
    fitted = entry.model
    hard = [
        f"fitted for {name} {ours!r}, this model has {theirs!r}"
        for name, ours, theirs in (
            ("the architecture", fitted.family, model.family),
            ("the prediction kind", fitted.prediction, model.prediction),
            ("latents with channels", fitted.channels, model.channels),
        )
        if ours and theirs and ours != theirs
    ]
    soft: list[str] = []
    same_weights = bool(fitted.fingerprint) and fitted.fingerprint == model.fingerprint
    if fitted.name and model.name and fitted.name != model.name and not same_weights:
        soft.append(f"fitted on {fitted.name!r}, this is {model.name!r}")
    if entry.guidance is not None and guidance is not None and not same_guidance(entry, guidance):
        soft.append(f"fitted at guidance {entry.guidance:g}, this is {guidance:g}")
    return Match(tuple(hard), tuple(soft))


def same_guidance(entry: Entry, guidance: float | None) -> bool:
    """Whether an entry was fitted at this guidance scale. Unknown on either side counts as the same."""
    if entry.guidance is None or guidance is None:
        return True
    return math.isclose(entry.guidance, guidance, rel_tol=_GUIDANCE_TOLERANCE)


@dataclass(frozen=True)
class Choice:
    """The outcome of looking for parameters: the name and entry found, or why none of them fits, in words."""

    name: str = ""
    entry: Entry | None = None
    reasons: tuple[str, ...] = ()


def choose(entries: Iterable[tuple[str, Entry]], model: ModelInfo, guidance: float | None, sigmas: Sequence[float]) -> Choice:
    """The first of the named entries that belongs to a model, a guidance scale and a grid (or the whole of which it is part).

    Unlike a user who picks a file by hand, this takes no soft differences but one: parameters of another checkpoint of the
    same kind are taken if there are none of this one.
    """
    second_best: tuple[str, Entry] | None = None
    reasons: Counter[str] = Counter()
    for name, entry in entries:
        match = compare(entry, model)
        if not match:
            reasons["for another kind of model"] += 1
        elif not same_guidance(entry, guidance):
            reasons[f"fitted at guidance {entry.guidance:g}"] += 1
        elif not _on_grid(entry, sigmas):
            reasons[f"for other noise levels ({len(entry.parameters.sigmas) - 1} steps)"] += 1
        elif match.soft:
            second_best = second_best or (name, entry)
        else:
            return Choice(name, entry)
    if second_best is not None:
        return Choice(*second_best)
    return Choice(reasons=tuple(f"{count} {reason}" for reason, count in reasons.items()))


def _on_grid(entry: Entry, sigmas: Sequence[float]) -> bool:
    try:
        entry.parameters.tableau(sigmas)
    except DodeError:
        return False
    return True
