"""One real ComfyUI for the page's tests; a fresh browser for each look of the page."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.comfy.server import ROOT, ComfyServer
from tests.comfyui import comfyui_dir
from tests.page.page import ComfyPage, browser_page

PACKS = ROOT / "tests" / "comfy" / "packs"


@dataclass(frozen=True)
class Look:
    """A renderer and a palette. Two of the four cover each of both; of the others there are pictures (test_pictures.py)."""

    name: str
    vue: bool
    light: bool


LOOKS = (Look("classic-dark", False, False), Look("nodes2-light", True, True))
OTHER_LOOKS = (Look("classic-light", False, True), Look("nodes2-dark", True, False))


@pytest.fixture(scope="session")
def page_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """ComfyUI with this pack and the test models."""
    server = ComfyServer(comfyui_dir(), tmp_path_factory.mktemp("page"), [ROOT, PACKS / "dode-test-models"])
    yield server
    server.close()


@pytest.fixture(scope="module", params=LOOKS, ids=lambda look: look.name)
def look(request: pytest.FixtureRequest) -> Look:
    return request.param


@pytest.fixture(scope="module")
def open_tab(page_server: ComfyServer, look: Look) -> Iterator[ComfyPage]:
    """The page in this look, opened once for all tests of it."""
    with browser_page(page_server) as page:
        page.name = look.name
        yield page.open(look.vue, look.light)


@pytest.fixture
def tab(open_tab: ComfyPage) -> Iterator[ComfyPage]:
    """The page. Whatever a test does there, nothing of ours may complain."""
    open_tab.complaints.clear()
    yield open_tab
    assert open_tab.complaints == []


@pytest.fixture
def library(page_server: ComfyServer) -> Path:
    """Where the server's own parameter files are."""
    return page_server.base / "models" / "dode"
