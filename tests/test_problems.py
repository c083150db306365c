"""What the page says in other languages of what went wrong."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.page_texts import page_texts

ROOT = Path(__file__).resolve().parent.parent
HOST_LACKS = "MissingFeature"  # an ImportError, so that it is no DodeError


def parsed(*folders: str) -> Iterator[ast.AST]:
    for folder in folders:
        for path in (ROOT / folder).rglob("*.py"):
            yield from ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def kinds_of_errors() -> set[str]:
    """Every class of error that the pack has."""
    bases = {
        each.name: {ast.unparse(base) for base in each.bases}
        for each in parsed("dode", "nodes")
        if isinstance(each, ast.ClassDef)
    }
    found = {"DodeError"}
    while more := {name for name, of in bases.items() if of & found} - found:
        found |= more
    assert HOST_LACKS in bases
    return found | {HOST_LACKS}


def kinds_of_refusals() -> set[str]:
    """What a route refuses and the page may have asked, and what the page names itself."""
    calls = (each for each in parsed("nodes/page") if isinstance(each, ast.Call) and ast.unparse(each.func) == "_Refused")
    refused = {ast.literal_eval(call.args[2]) for call in calls if len(call.args) == 3}
    assert refused
    own = (re.findall(r'problem\("(\w+)"', path.read_text(encoding="utf-8")) for path in (ROOT / "web").rglob("*.mjs"))
    return refused.union(*own)


@pytest.mark.parametrize("language", ["zh", "ja"])
def test_every_kind_of_error_has_words_in_each_language_of_the_page(language: str) -> None:
    texts = page_texts("problems.mjs", language)
    assert set(texts) == kinds_of_errors() | kinds_of_refusals()
    assert {name for text in texts.values() for name in re.findall(r"\{(\w+)\}", text)} == {"words"}
