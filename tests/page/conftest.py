"""A real ComfyUI for each of two versions of its page; a fresh browser for each look of the page."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.comfy.server import ROOT, ComfyServer
from tests.comfyui import comfyui_dir
from tests.page.frontend import NEWEST, frontend
from tests.page.page import ComfyPage, browser_page

PACKS = ROOT / "tests" / "comfy" / "packs"


@dataclass(frozen=True)
class Look:
    """A renderer and a palette, on the page that belongs to the host of the tests, or on the newest."""

    name: str
    vue: bool
    light: bool
    newest: bool = False


# Two of the four combinations cover each renderer and palette on the host's own page, the others on the newest. All tests run
# on the first two; on the others those marked ``both_pages``, which are about what the host does for us, and pictures.
LOOKS = (Look("classic-dark", False, False), Look("nodes2-light", True, True))
NEWEST_LOOKS = (Look("newest-classic-light", False, True, True), Look("newest-nodes2-dark", True, False, True))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "look" not in metafunc.fixturenames:
        return
    own = getattr(metafunc.module, "looks", LOOKS)
    looks = (*own, *NEWEST_LOOKS) if metafunc.definition.get_closest_marker("both_pages") else own
    metafunc.parametrize("look", looks, indirect=True, scope="module", ids=lambda look: look.name)


@pytest.fixture(scope="module")
def look(request: pytest.FixtureRequest) -> Look:
    return request.param


def _server(base: Path, *arguments: str) -> ComfyServer:
    return ComfyServer(comfyui_dir(), base, [ROOT, PACKS / "dode-test-models"], arguments=arguments)


@pytest.fixture(scope="session")
def page_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """ComfyUI with this pack and the test models."""
    server = _server(tmp_path_factory.mktemp("page"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def newest_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """The same with the newest page."""
    server = _server(tmp_path_factory.mktemp("newest"), "--front-end-root", str(frontend(NEWEST)))
    yield server
    server.close()


@pytest.fixture(scope="module")
def open_tab(request: pytest.FixtureRequest, look: Look) -> Iterator[ComfyPage]:
    """The page in this look, opened once for all tests of it."""
    with browser_page(request.getfixturevalue("newest_server" if look.newest else "page_server")) as page:
        page.name = look.name
        yield page.open(look.vue, look.light)


@pytest.fixture
def tab(open_tab: ComfyPage) -> Iterator[ComfyPage]:
    """The page. Whatever a test does there, nothing of ours may complain."""
    open_tab.complaints.clear()
    yield open_tab
    assert open_tab.complaints == []


@pytest.fixture
def library(open_tab: ComfyPage) -> Path:
    """Where the server's own parameter files are."""
    return open_tab.server.base / "models" / "dode"
