"""Fixtures of all tests, and their order: what fails fast and is quick to mend comes first."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from dode.demo.mixture import GaussianMixture, ring

TESTS = Path(__file__).resolve().parent


def stage(path: Path) -> int:
    """0 style and layout, 1 the core, 2 a real ComfyUI or WebUI, 3 ComfyUI's page in a browser."""
    first = path.relative_to(TESTS).parts[0]
    if path.name == "test_real.py":
        return 2
    return {"test_style.py": 0, "test_floors.py": 0, "comfy": 2, "page": 3}.get(first, 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: stage(item.path))


class Stages:
    """Ends the run where a stage has failures and one after it has begun, in one process or with pytest-xdist's workers."""

    def __init__(self, session: pytest.Session):
        self._session, self._failed, self._reached = session, set[int](), 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        of = stage(TESTS.parent / report.nodeid.partition("::")[0])
        self._reached = max(self._reached, of)
        if report.failed:
            self._failed.add(of)
        if self._failed and min(self._failed) < self._reached:
            workers: Any = self._session.config.pluginmanager.getplugin("dsession")
            (workers or self._session).shouldstop = "tests failed; the stages after theirs are not run."


def pytest_sessionstart(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput"):
        session.config.pluginmanager.register(Stages(session))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With workers: the tests of a file go to one of them, as they share what is costly; of the page, those of a look of it."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            look = re.search(r"\[((newest-)?(classic|nodes2)-\w+)", nodeid)
            return nodeid.partition("::")[0] + (look[1] if look else "")

    config.option.loadscopereorder = False  # the stages are in order
    return Scheduling(config, log)


@pytest.fixture(params=["variance exploding", "flow"])
def model(request: pytest.FixtureRequest) -> GaussianMixture:
    """The exact model in both dresses."""
    return ring(flow=request.param == "flow")


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    torch.manual_seed(0)
