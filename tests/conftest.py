"""Fixtures of all tests, and their order: what fails fast and is quick to mend comes first."""

from pathlib import Path

import pytest
import torch

from dode.demo.mixture import GaussianMixture, ring

TESTS = Path(__file__).resolve().parent
_STAGE = pytest.StashKey[int]()


def stage(path: Path) -> int:
    """0 style and layout, 1 the core, 2 a real ComfyUI or WebUI, 3 ComfyUI's page in a browser."""
    first = path.relative_to(TESTS).parts[0]
    if path.name == "test_real.py":
        return 2
    return {"test_style.py": 0, "test_floors.py": 0, "comfy": 2, "page": 3}.get(first, 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: stage(item.path))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Where a stage has failures, the ones after it do not start."""
    session = item.session
    reached = session.stash.setdefault(_STAGE, stage(item.path))
    if stage(item.path) > reached:
        if session.testsfailed:
            pytest.exit(f"{session.testsfailed} tests failed; the stages after theirs were not run.", returncode=1)
        session.stash[_STAGE] = stage(item.path)


@pytest.fixture(params=["variance exploding", "flow"])
def model(request: pytest.FixtureRequest) -> GaussianMixture:
    """The exact model in both dresses."""
    return ring(flow=request.param == "flow")


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    torch.manual_seed(0)
