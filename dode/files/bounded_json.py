"""JSON from a file that nobody vouches for: parsed only after its depth and the number of its parts are known to be small."""

import json
import re
from typing import Any, NoReturn

from dode.errors import FormatError

MAX_DEPTH = 32
MAX_TOKENS = 1 << 16
MAX_TEXT = 10_000
MAX_NUMBER = 1e300
# A string without escapes (closed, or cut off by the end), a bracket, or a number of absurdly many digits.
_TOKEN = re.compile(r'"[^"]*(?:"|\Z)|[\[{]|[\]}]|[0-9]{400,}')
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_REQUIRED: Any = object()


def parse_object(text: str, where: str) -> dict[str, Any]:
    """A JSON object; ``where`` names it in refusals.

    Raises:
        FormatError: not JSON, a key that stands twice, NaN or infinity, nested deeper than 32, or more than 65536 strings and
            brackets. Python's parser is not called for the last two: it would take memory out of proportion, or recurse.
    """
    _measure(text, where)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise FormatError(f"{where}: a key stands twice.")
        return found

    def refuse(constant: str) -> NoReturn:
        raise FormatError(f"{where}: {constant} is not a JSON number; all numbers must be finite.")

    try:
        value = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except FormatError:
        raise
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where} is not valid JSON.") from error
    if not isinstance(value, dict):
        raise FormatError(f"{where} must be a JSON object.")
    return value


def _measure(text: str, where: str) -> None:
    # A backslash outside of strings, where this is wrong, is where the parser stops.
    text = text.replace("\\\\", "").replace('\\"', "")
    depth = 0
    for count, token in enumerate(_TOKEN.finditer(text)):
        first = text[token.start()]
        depth += (first in "[{") - (first in "]}")
        if count >= MAX_TOKENS:
            raise FormatError(f"{where} has more than {MAX_TOKENS} strings and brackets.")
        if depth > MAX_DEPTH:
            raise FormatError(f"{where} is nested deeper than {MAX_DEPTH}.")
        if first.isdigit():
            raise FormatError(f"{where} holds a number of {token.end() - token.start()} digits.")


def check_text(value: Any, where: str, limit: int = MAX_TEXT) -> str:
    """A text that can be printed. Raises FormatError for other types, too long ones, and control characters."""
    if not isinstance(value, str) or len(value) > limit:
        raise FormatError(f"{where} must be a text of at most {limit} characters.")
    if _CONTROL.search(value):
        raise FormatError(f"{where} must not hold control characters.")
    return value


def printable(text: str) -> str:
    """A text with line ends as \\n, and with what ``check_text`` refuses in its characters replaced."""
    return _CONTROL.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))


class Fields:
    """Takes typed fields out of a JSON object, naming the field in every refusal. Fields nobody takes are ignored."""

    def __init__(self, value: Any, where: str):
        if not isinstance(value, dict):
            raise FormatError(f"{where} must be a JSON object, got {type(value).__name__}.")
        self.value, self.where = value, where

    def take(self, name: str, kind: type, default: Any = _REQUIRED, low: float = -MAX_NUMBER, high: float = MAX_NUMBER) -> Any:
        """A field of a kind: str, list, int (0 to 2^64 - 1) or float (finite, from ``low`` to ``high``; whole numbers too).

        null is as if it were missing.
        """
        where = f"{self.where}.{name}"
        value = self.value.get(name)
        if value is None:
            if default is _REQUIRED:
                raise FormatError(f"{where} is missing.")
            return default
        if kind is float and type(value) is int:
            value = float(value) if abs(value) < 2**53 else value
        if type(value) is not kind:
            raise FormatError(f"{where} must be {kind.__name__}, got {type(value).__name__}.")
        if kind is str:
            return check_text(value, where)
        if kind is float and not low <= value <= high:
            raise FormatError(f"{where} must be finite and from {low:g} to {high:g}, got {value}.")
        if kind is int and not 0 <= value < 2**64:
            raise FormatError(f"{where} must be a whole number from 0 up and below 2^64.")
        return value

    def numbers(self, name: str, limit: int, high: float = MAX_NUMBER) -> tuple[float, ...]:
        """A list of at most so many numbers from 0 to ``high``."""
        values = self.take(name, list)
        if len(values) > limit or not all(type(v) in (int, float) and 0 <= v <= high for v in values):
            raise FormatError(f"{self.where}.{name} must be a list of at most {limit} finite numbers from 0 to {high:g}.")
        return tuple(float(v) for v in values)
