"""A stand-in of each WebUI with the extension in it."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.webui.installed import Installed, webuis
from tests.webui.standins import KINDS

# What starts a real one is not there without one.
collect_ignore = [] if os.environ.get("WEBUI_DIR") else ["test_real.py"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Installed]]:
    """Starts a WebUI of a kind, with these saved settings."""
    with webuis(tmp_path) as make:
        yield make


@pytest.fixture(params=KINDS)
def host(request: pytest.FixtureRequest, start: Callable[..., Installed]) -> Installed:
    return start(request.param)
