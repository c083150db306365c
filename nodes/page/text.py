"""What a node says about parameters, in words."""

from collections.abc import Sequence

from dode.files.compatibility import Match
from dode.files.parameter_file import ParameterFile
from dode.files.words import warnings

from ..host import say_once


def stopped_early(missing: Sequence[tuple[int, float]]) -> str:
    """What a fit that was stopped has not come to: pairs of a number of steps and a guidance scale."""
    steps: dict[float, list[str]] = {}
    for number, scale in missing:
        steps.setdefault(scale, []).append(str(number))
    left = "; ".join(f"{', '.join(numbers)} steps at guidance {scale:g}" for scale, numbers in steps.items())
    return f"Stopped early: the best found so far was kept.{left and f' Missing: {left}.'}"


def warn_of(name: str, match: Match) -> None:
    """Say once in the log what differs without being wrong."""
    for warning in warnings(name, match):
        say_once(warning)


def comparison(match: Match) -> str:
    """Several lines: everything that was compared, and the outcome."""
    marks = {"same": "=", "unknown": "?", "soft": "≈", "hard": "✗"}
    head = "Fits this model." if match and not match.soft else "May fit this model." if match else "Does not fit this model."
    return "\n".join([head, *(f"{marks[each.verdict]} {each}" for each in match.compared)])


def words(content: ParameterFile) -> str:
    """One or more lines: who made a file, under which terms, and what they say of it."""
    made = [content.author and f"by {content.author}", content.licence, f"with {content.software}"]
    return "\n".join(filter(None, [", ".join(filter(None, made)), content.notes]))
