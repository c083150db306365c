"""Everything public shows how it is used, and every example in a docstring runs."""

import doctest
import importlib
import inspect
from types import ModuleType

import pytest

import dode
from tests import floors

MODULES = sorted(f"dode.{name}" for name in floors.modules() if name not in ("__init__", "__main__"))
PUBLIC = [name for name in dode.__all__ if inspect.isroutine(getattr(dode, name)) or inspect.isclass(getattr(dode, name))]


@pytest.mark.parametrize("name", [name for name in PUBLIC if name != "DodeError"])
def test_what_is_public_has_an_example(name: str) -> None:
    assert doctest.DocTestFinder().find(getattr(dode, name))[0].examples


def examples_of(module: ModuleType) -> list[doctest.DocTest]:
    return [found for found in doctest.DocTestFinder(exclude_empty=True).find(module) if found.examples]


def test_every_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    runner = doctest.DocTestRunner()
    for name in MODULES:
        for found in examples_of(importlib.import_module(name)):
            runner.run(found)
    assert runner.failures == 0, capsys.readouterr().out
    assert runner.tries > 60


def test_a_wrong_example_is_seen(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = ModuleType("wrong", "An example.\n\n>>> 1 + 1\n3\n")
    runner = doctest.DocTestRunner()
    (found,) = examples_of(wrong)
    assert runner.run(found).failed == 1
    assert "Expected" in capsys.readouterr().out
