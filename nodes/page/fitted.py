"""What a fit has made, as a report in words and as plain JSON for the page."""

from collections.abc import Sequence
from typing import Any

from dode.files.parameter_file import Entry
from dode.files.words import gain, summary
from dode.fit.cost import cost_text

from .. import library
from ..fitting.equivalent_steps import words
from ..fitting.fitted import Fitted
from .cards import entry_card, saved_card
from .text import stopped_early


def report(fitted: Fitted, keep: library.Keeper) -> str:
    """Several lines: each sampler, what the first is worth, what it took, and where the file is."""
    made, worth, prompts = fitted.made, fitted.worth, fitted.prompts
    lines = [line for each in made.entries for line in (summary(each), gain(each))]
    lines += [words(worth, made.entries[0])] if worth else []
    lines += [stopped_early(made.missing)] if made.stopped else []
    spent = made.progress.spent
    lines.append(f"{prompts} prompt{'s' * (prompts > 1)}, {spent.total()} model evaluations in {fitted.seconds:.0f} s.")
    return "\n".join([*lines, cost_text(spent), keep.said()])


def card(fitted: Fitted, keep: library.Keeper) -> dict[str, Any]:
    """The same for the page."""
    made = fitted.made
    return {
        "kind": "distilled",
        "entries": [entry_card(each, worth=None if number else fitted.worth) for number, each in enumerate(made.entries)],
        "worth": saved_card(fitted.worth),
        "file": library.name_of(keep.path) if keep.path else None,
        "path": str(keep.path) if keep.path else None,
        "problem": keep.said() if keep.problem else None,
        "prompts": fitted.prompts,
        "evaluations": made.progress.spent.total(),
        "seconds": fitted.seconds,
        "stopped": [{"steps": number, "cfg": scale} for number, scale in made.missing] if made.stopped else None,
    }


def reused_report(file: str, entries: Sequence[Entry]) -> str:
    """The report where the same fit was there already."""
    lines = [line for each in entries for line in (summary(each), gain(each))]
    return "\n".join([*lines, f"Used again: {file}, the same fit. To fit anew, switch on again, or take another name."])


def reused_card(file: str, entries: Sequence[Entry], prompts: int) -> dict[str, Any]:
    """The same for the page."""
    cards = [entry_card(each) for each in entries]
    shown: dict[str, Any] = {"kind": "distilled", "entries": cards, "worth": None, "prompts": prompts, "stopped": None}
    return shown | {"file": file, "path": str(library.path_of(file)), "problem": None, "reused": True}
