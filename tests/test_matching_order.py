"""What is picked is never beaten by what was left: random small libraries against the table of ``docs/matching.md``.

The order is written here a second time, over labels that the library is built from, so that it shares nothing with the code.
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dode import Entry, ModelInfo, Parameters
from dode.files.choice import choose

MODEL = ModelInfo("mine.safetensors", "UNet", "eps", 4, "blocks-mine", "none")
OTHERS_KIND: list[dict[str, Any]] = [{"family": "DiT"}, {"prediction": "v"}, {"channels": 16}]
CHECKPOINTS: list[list[dict[str, Any]]] = [
    [{}, {"name": "renamed.safetensors"}, {"name": ""}],
    [{"fingerprint": ""}],
    [{"fingerprint": "", "name": ""}],
    [{"fingerprint": "blocks-other"}, {"name": "other.safetensors", "fingerprint": ""}],
]
PATCHES: list[list[dict[str, Any]]] = [[{}], [{"patches": ""}], [{"patches": "patches-1"}, {"patches": "patches-2"}]]
SCALES = (2.0, 3.0, 5.0)


@dataclass(frozen=True)
class Made:
    """An entry and what the table says of it: which column in its lines; ``fits``: its kind of model is the one at hand."""

    file: int
    entry: Entry
    fits: bool
    checkpoint: int
    patches: int
    blended: bool = False

    @property
    def levels(self) -> tuple[float, ...]:
        return self.entry.parameters.sigmas


def built(rng: random.Random) -> list[Made]:
    """Files of one to four entries each; those of one file are often of one model, and their grids sometimes alike."""
    made: list[Made] = []
    for file in range(rng.randint(1, 6)):
        label, model = labelled(rng)
        for _ in range(rng.randint(1, 4)):
            if rng.random() < 0.2:
                label, model = labelled(rng)
            steps = rng.choice((3, 4))
            alike = [each.levels for each in made if len(each.levels) == steps + 1]
            grid = rng.choice(alike) if alike and rng.random() < 0.3 else random_grid(rng, steps)
            scale = rng.choice((None, *SCALES))
            each = Made(file, entry(grid, scale, model), *label)
            if rng.random() < 0.15:  # fitted on several models together: last of all, whatever it says of a checkpoint
                each = replace(each, entry=replace(each.entry, recipe={"models": ["a", "b"]}), checkpoint=len(CHECKPOINTS))
            made.append(each)
    return made


def labelled(rng: random.Random) -> tuple[tuple[bool, int, int], ModelInfo]:
    checkpoint, patches = rng.randrange(len(CHECKPOINTS)), rng.randrange(len(PATCHES))
    fits = rng.random() < 0.8
    changes = {**rng.choice(CHECKPOINTS[checkpoint]), **rng.choice(PATCHES[patches])}
    return (fits, checkpoint, patches), replace(MODEL, **changes, **({} if fits else rng.choice(OTHERS_KIND)))


def random_grid(rng: random.Random, steps: int) -> tuple[float, ...]:
    levels = np.cumsum([rng.uniform(0.5, 3.0) for _ in range(steps)])[::-1]
    return (*map(float, levels), 0.0)


def entry(grid: Sequence[float], scale: float | None, model: ModelInfo) -> Entry:
    return Entry(Parameters("euler", 1, "data", tuple(grid), np.zeros((len(grid) - 1, 1))), model, scale)


def blends(made: Sequence[Made], guidance: float | None) -> Iterator[Made]:
    """What lies between the two nearest scales of one file, number of steps and model, where none is fitted at the scale."""
    groups: dict[Any, list[Made]] = {}
    for each in made:
        if each.entry.guidance is not None:
            groups.setdefault((each.file, len(each.levels), each.entry.model, each.checkpoint == len(CHECKPOINTS)), []).append(
                each
            )
    for group in groups.values():
        scales = {float(each.entry.guidance or 0): each for each in reversed(group)}
        if guidance is None or guidance in scales:
            continue
        below, above = [s for s in scales if s < guidance], [s for s in scales if s > guidance]
        if below and above:
            low, high = scales[max(below)], scales[min(above)]
            part = (guidance - max(below)) / (min(above) - max(below))
            grid = [a ** (1 - part) * b**part for a, b in zip(low.levels, high.levels, strict=True)]
            yield replace(low, entry=entry(grid, guidance, low.entry.model), blended=True)


def place(sigmas: Sequence[float], whole: Sequence[float]) -> int | None:
    parts = ((first, whole[first : first + len(sigmas)]) for first in range(len(whole) - len(sigmas) + 1))
    return next((first for first, part in parts if np.allclose(part, sigmas, rtol=1e-9, atol=0)), None)


def table(each: Made, guidance: float | None, sigmas: Sequence[float]) -> tuple[float, ...]:
    """The columns of the table, line by line."""
    scale = each.entry.guidance
    known = 0 if guidance is None else 2 if scale is None else int(each.blended)
    distance = 0.0 if guidance is None or scale is None else abs(scale - guidance)
    return each.checkpoint, each.patches, known, distance, int(place(sigmas, each.levels) is None), each.file


def able(each: Made, made: Sequence[Made], guidance: float | None, sigmas: Sequence[float], generic: bool) -> bool:
    """What must hold."""
    if each.checkpoint == len(CHECKPOINTS) and not generic:
        return False
    at_scale = guidance is None or each.entry.guidance in (None, guidance)
    stand_for = any(len(other.levels) == len(each.levels) and place(sigmas, other.levels) is not None for other in made)
    return each.fits and at_scale and (place(sigmas, each.levels) is not None or stand_for)


def asked(rng: random.Random, made: Sequence[Made], guidance: float | None) -> tuple[float, ...]:
    """A part of the levels of an entry or of a blend; sometimes others."""
    mixed = list(blends(made, guidance))
    source = rng.choice(mixed) if mixed and rng.random() < 0.2 else rng.choice(made)
    whole = source.levels if rng.random() < 0.9 else random_grid(rng, 3)
    first = rng.randrange(len(whole) - 1)
    return whole[first : rng.randint(first + 2, len(whole))]


@pytest.mark.parametrize("seed", range(20))
def test_what_is_picked_is_never_beaten(seed: int) -> None:
    rng = random.Random(seed)
    outcomes: set[bool] = set()
    for _ in range(30):
        made = built(rng)
        guidance = rng.choice((None, *SCALES, 2.5, 4.0, 9.0))
        sigmas = asked(rng, made, guidance)
        generic = rng.random() < 0.5
        found = choose([(str(each.file), each.entry) for each in made], MODEL, guidance, sigmas, generic=generic)
        left = [each for each in (*made, *blends(made, guidance)) if able(each, made, guidance, sigmas, generic)]
        outcomes.add(found.entry is None)
        if found.entry is None:
            assert not left
            assert found.reasons
            continue
        best = min(left, key=lambda each: table(each, guidance, sigmas))
        assert (found.name, found.entry.guidance) == (str(best.file), best.entry.guidance)
        taken = [each for each in left if str(each.file) == found.name and each.entry.model == found.entry.model]
        taken = [each for each in taken if (each.checkpoint == len(CHECKPOINTS)) == bool(found.entry.fitted_on)]
        taken = [each for each in taken if each.blended or each.entry is found.entry]
        assert min(table(each, guidance, sigmas) for each in taken) == table(best, guidance, sigmas)
        own = found.entry.parameters.sigmas
        assert found.own_grid == (place(sigmas, best.levels) is None)
        if found.own_grid:
            wholes = [each.levels for each in made if len(each.levels) == len(own) and place(sigmas, each.levels) is not None]
            firsts = {place(sigmas, whole) for whole in wholes}
            assert found.sigmas in {own[first : first + len(sigmas)] for first in firsts if first is not None}
        else:
            assert found.sigmas == sigmas
        found.entry.parameters.tableau(found.sigmas)
    assert outcomes == {True, False}


def test_the_document_has_the_lines_of_this_order() -> None:
    text = (Path(__file__).parent.parent / "docs" / "matching.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| (\d)\. ([^|,]+)", text, re.MULTILINE)
    assert [(number, name.strip()) for number, name in lines] == [
        ("1", "checkpoint"), ("2", "weight patches"), ("3", "guidance"), ("4", "distance from the scale"),
        ("5", "noise levels"), ("6", "file"),
    ]  # fmt: skip
