"""Which of many entries is the one for a model, a guidance scale and noise levels: by the order of ``docs/matching.md``.

Knows no host: a host says what it has to sample on, and gets what to run, or why there is nothing to run.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from dode.correction import position
from dode.errors import DodeError, ParameterError
from dode.files.compatibility import Match, compare, same_guidance
from dode.files.interpolation import interpolate
from dode.files.parameter_file import Entry, ModelInfo

REACH = (0.15, 1.05)
"""Where an entry's first noise level may lie, in the model's largest: learned ones start lower than that."""
_MOST_NAMES = 3
_GENERIC, _FAR = 8, 9


@dataclass(frozen=True)
class Part:
    """A part of a grid of noise levels.

    Attributes:
        steps: of the whole grid.
        first, last: the numbers of its first and last level.
        forced: the last level was put to 0 where the grid has another.
    """

    steps: int
    first: int
    last: int
    forced: bool = False

    def of(self, levels: Sequence[float]) -> tuple[float, ...]:
        """The same part of another grid with as many steps.

        Example:
            >>> Part(3, 1, 3).of([9.0, 3.0, 1.0, 0.0])
            (3.0, 1.0, 0.0)
        """
        found = tuple(float(level) for level in levels[self.first : self.last + 1])
        return (*found[:-1], 0.0) if self.forced else found


def part_of(sigmas: Sequence[float], whole: Sequence[float]) -> Part | None:
    """Where noise levels lie in a whole grid: a contiguous part of it, whose last level may have been put to 0.

    Hosts take the end of a grid for image-to-image, and any part where a user samples in several. None if they are no part.
    """
    steps, taken = len(whole) - 1, len(sigmas) - 1
    if taken < 1:
        return None
    first = position(sigmas, whole)
    if first is not None:
        return Part(steps, first, first + taken)
    first = position(sigmas[:-1], whole) if sigmas[-1] == 0 else None
    return Part(steps, first, first + taken, forced=True) if first is not None and first + taken <= steps else None


def in_reach(entry: Entry, largest: float | None) -> bool:
    """Whether an entry starts where a model with this largest noise level can start; None is unknown."""
    low, high = REACH
    return largest is None or low * largest <= entry.parameters.sigmas[0] <= high * largest


@dataclass(frozen=True)
class Choice:
    """What was found for noise levels to sample on.

    Attributes:
        name, entry: the entry to run and its file.
        sigmas: the noise levels to run it on, a part of its own; without an entry those that were given.
        own_grid: these are other levels than the given ones: the start has to be moved there.
        part: where the given levels lie in the grid that a scheduler of saved levels handed out; None for other levels.
        foreign: they are the levels of another kind of model, or of a file that is gone: a plain solver needs others.
        reasons: why there is no entry, in words, what comes closest first.
        near: without an entry, the files and numbers of steps of those that fit but for the noise levels.
    """

    name: str = ""
    entry: Entry | None = None
    sigmas: tuple[float, ...] = ()
    own_grid: bool = False
    part: Part | None = None
    foreign: bool = False
    reasons: tuple[str, ...] = ()
    near: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class _Candidate:
    name: str
    entry: Entry
    match: Match
    blended: bool = False

    def rank(self, guidance: float | None, on_given: bool) -> tuple[float, ...]:
        """The order of preference: smaller is better; what is equal here stays in the order it was given in."""
        verdict = {each.what: each.verdict for each in self.match.compared}
        weights, name = verdict["fingerprint"], verdict["checkpoint name"]
        checkpoint = 4 if self.entry.fitted_on else {"same": 0, "soft": 3}.get(weights, {"same": 1, "unknown": 2}.get(name, 3))
        patches = {"same": 0, "unknown": 1}.get(verdict["weight patches"], 2)
        unknown = guidance is not None and self.entry.guidance is None
        return checkpoint, patches, 2 if unknown else int(self.blended), self._distance(guidance), int(not on_given)

    def _distance(self, guidance: float | None) -> float:
        return 0.0 if guidance is None or self.entry.guidance is None else round(abs(self.entry.guidance - guidance), 3)


def choose(
    entries: Iterable[tuple[str, Entry]],
    model: ModelInfo,
    guidance: float | None,
    sigmas: Sequence[float],
    *,
    handed: Iterable[Sequence[float]] = (),
    largest: float | None = None,
    both: bool = True,
    generic: bool = False,
) -> Choice:
    """The entry that fits best, and the part of its own noise levels to run it on.

    A scheduler that hands out saved noise levels mostly does not know the model yet, nor the guidance. So levels that are those
    of any entry, whole or in part, stand for the same part of the grid of whichever entry fits best with as many steps. Other
    levels, such as a host's own schedule, are taken as they are. Between the scales of one file's entries it interpolates.

    Unlike a user who picks a file by hand, this takes no entry of another guidance. One of another checkpoint of the same kind,
    or of the same with other weight patches, is taken where there is no better one: ``compare`` says so.

    Args:
        entries: pairs of a file's name and an entry, those of one file together, newest file first.
        model, guidance: to sample with; None where there is no single scale.
        sigmas: the noise levels to sample on, at least two.
        handed: whole grids that a scheduler is known to have handed out, for the case that their file is gone since.
        largest: the model's largest noise level. Entries that start far from it are not taken for others' levels.
        both: the host gives both outputs of guidance; where it does not, no entry can run that weighs them.
        generic: take an entry that was fitted on several models together where the model has no other.

    Example:
        >>> from dode.correction import Parameters
        >>> two, four = (Entry(Parameters("euler", 1, "data", (3 * w, w, 0.0), [[0.0], [0.0]]), guidance=w) for w in (2.0, 4.0))
        >>> choose([("of 4", four), ("of 2", two)], ModelInfo(), 2.0, [4.0, 0.0]).sigmas
        (2.0, 0.0)
    """
    known = list(entries)
    reasons = _Reasons()
    kin: list[_Candidate] = []
    for name, entry in known:
        match = compare(entry, model)
        if match and entry.fitted_on and not generic:
            reasons.add(_GENERIC, "was fitted on several other models, and the setting for such files is off", name)
        elif match:
            kin.append(_Candidate(name, entry, match))
        else:
            reasons.add(_FAR, f"is for another kind of model ({match.hard[0]})", name)
    handed_parts = _parts(sigmas, handed)
    kin_parts = _parts(sigmas, (each.entry.parameters.sigmas for each in kin))
    other_parts = _parts(sigmas, (entry.parameters.sigmas for _, entry in known))
    parts = sorted(dict.fromkeys((*handed_parts, *kin_parts, *other_parts)), key=lambda part: part.forced)
    part = parts[0] if parts else None
    near: list[tuple[str, int]] = []
    able: list[tuple[tuple[float, ...], _Candidate, tuple[float, ...], bool]] = []
    for candidate in _at_scale(kin, guidance, reasons):
        own = candidate.entry.parameters.sigmas
        mine = next((part for part in parts if part.steps == len(own) - 1), None)
        if not both and candidate.entry.parameters.tableau().guided:
            reasons.add(1, "weighs both outputs of guidance, which this guider or this scale does not give", candidate.name)
        elif position(sigmas, own) is not None:
            able.append((candidate.rank(guidance, on_given=True), candidate, tuple(sigmas), False))
        elif (
            mine and not mine.forced and own[-1] == 0 and _ends_alike(mine, own, sigmas) and in_reach(candidate.entry, largest)
        ):
            able.append((candidate.rank(guidance, on_given=False), candidate, mine.of(own), True))
        else:
            near.append((candidate.name, len(own) - 1))
            reasons.add(*_other_levels(candidate.entry, sigmas, part, mine), candidate.name)
    for _, candidate, levels, own_grid in sorted(able, key=lambda each: each[0]):
        if not (problem := _problem(candidate.entry, levels)):
            return Choice(candidate.name, candidate.entry, levels, own_grid, part)
        reasons.add(0, f"cannot run here ({problem})", candidate.name)
    foreign = bool(handed_parts) and not kin_parts
    said, close = reasons.said(), tuple(dict.fromkeys(near))
    return Choice(sigmas=tuple(sigmas), part=part, foreign=foreign, reasons=said, near=close)


def _ends_alike(part: Part, own: Sequence[float], sigmas: Sequence[float]) -> bool:
    """Whether a part of an entry's levels ends at 0 where the given ones do: a grid need not go down to 0."""
    return (part.of(own)[-1] == 0) == (sigmas[-1] == 0)


def _problem(entry: Entry, levels: Sequence[float]) -> str:
    """Why an entry cannot run on a part of its noise levels, or nothing: some solvers take other stages there."""
    try:
        entry.parameters.tableau(levels)
    except DodeError as error:
        return str(error).rstrip(".")
    return ""


def _parts(sigmas: Sequence[float], grids: Iterable[Sequence[float]]) -> list[Part]:
    return [part for whole in grids if (part := part_of(sigmas, whole))]


def _at_scale(kin: Iterable[_Candidate], guidance: float | None, reasons: "_Reasons") -> Iterator[_Candidate]:
    """The entries for a guidance scale: those fitted at it or at an unknown one, and of each file and number of steps, where
    none was fitted at it, what lies between two."""
    for name, group in _grouped(kin):
        there = [each for each in group if same_guidance(each.entry, guidance)]
        yield from there
        if guidance is None or any(each.entry.guidance is not None for each in there):
            continue
        fitted = [each.entry for each in group if each.entry.guidance is not None]
        try:
            blend = interpolate(fitted, guidance)
            yield _Candidate(name, blend, group[0].match, blended=True)
        except ParameterError:
            for entry in fitted:
                reasons.add(2, f"was fitted at guidance {entry.guidance:g}", name)


def _grouped(kin: Iterable[_Candidate]) -> Iterator[tuple[str, list[_Candidate]]]:
    """By file, number of steps and the model or models fitted on, in the order given; with the file's name."""
    for name, of_file in groupby(kin, key=lambda each: each.name):
        groups: dict[tuple[int, ModelInfo, tuple[str, ...]], list[_Candidate]] = {}
        for each in of_file:
            key = len(each.entry.parameters.sigmas), each.entry.model, each.entry.fitted_on
            groups.setdefault(key, []).append(each)
        yield from ((name, group) for group in groups.values())


def _other_levels(entry: Entry, sigmas: Sequence[float], part: Part | None, mine: Part | None) -> tuple[int, str]:
    """Why an entry for this model and guidance cannot run on noise levels; how far it is from fitting, and words."""
    steps, taken = len(entry.parameters.sigmas) - 1, len(sigmas) - 1
    if mine and mine.forced:
        return 0, "has these levels but for the last, which was put to 0 (return_with_leftover_noise is off)"
    if mine:
        return 1, "has noise levels that this model does not reach, or that do not end at 0"
    if part:
        return 1, f"has {steps} steps, and these noise levels are of {part.steps}"
    if steps == taken:
        return 0, f"has {steps} steps on other noise levels (scheduler dode has its own)"
    return 1, f"has {steps} steps, not {taken}"


class _Reasons:
    """Why files were passed over, in words."""

    def __init__(self) -> None:
        self._files: dict[tuple[int, str], dict[str, None]] = {}

    def add(self, far: int, words: str, name: str) -> None:
        """``far``: how far from fitting."""
        self._files.setdefault((far, words), {})[name] = None

    def said(self) -> tuple[str, ...]:
        """What comes closest first."""
        found: list[str] = []
        for (_, words), names in sorted(self._files.items(), key=lambda item: item[0][0]):
            listed, more = list(names)[:_MOST_NAMES], len(names) - _MOST_NAMES
            found.append(f"{', '.join(listed)}{f' and {more} more' if more > 0 else ''}: {words}")
        return tuple(found)
