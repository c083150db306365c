"""What a fit costs, in words: model evaluations by stage, and as many pictures as they would make."""

from collections.abc import Mapping

_PICTURE = 20  # steps of a usual picture
_STAGES = ("teacher", "search", "student", "refine", "check", "compare", "pictures")


def pictures(evaluations: int) -> int:
    """How many pictures of 20 steps take as many evaluations."""
    return round(evaluations / _PICTURE)


def pictures_text(evaluations: int) -> str:
    """The same in words."""
    number = pictures(evaluations)
    return f"{number:,} picture{'s' * (number != 1)} of {_PICTURE} steps"


def cost_text(counts: Mapping[str, int]) -> str:
    """A small table of evaluations by stage, in the order in which the stages come, and their sum."""
    known = {stage: counts[stage] for stage in (*_STAGES, *counts) if counts.get(stage)}
    total = sum(known.values())
    rows = [(stage, f"{number:,}", "") for stage, number in known.items()]
    rows.append(("in all", f"{total:,}", f", as many as {pictures_text(total)} take"))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"  {stage:{widths[0]}}  {number:>{widths[1]}}{words}" for stage, number, words in rows]
    return "\n".join(["Model evaluations, a guided one counted once:", *lines])
