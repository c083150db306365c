"""The tab in the sidebar that lists the distilled samplers."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.comfy.server import ROOT
from tests.page.conftest import Look
from tests.page.graphs import EXAMPLE, LOAD, loading
from tests.page.page import ComfyPage

MINE = "mine_to_keep.safetensors"


@pytest.fixture
def listed(tab: ComfyPage, library: Path) -> Iterator[Any]:
    """The open tab, with a file of the user's own in it."""
    library.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "example_parameters" / EXAMPLE, library / MINE)
    tab.build(*loading(file=EXAMPLE))
    tab.settle()
    toggle = "() => app.extensionManager.sidebarTab.toggleSidebarTab('dode-library')"
    tab.page.evaluate(toggle)
    yield tab.page.locator(".dode-library")
    tab.page.evaluate(toggle)
    for path in library.glob("*mine_*"):
        path.unlink()


def row(listed: Any, name: str) -> Any:
    found = listed.locator("li", has_text=name)
    found.first.wait_for()
    return found


@pytest.mark.both_pages
def test_a_file_is_found_used_renamed_deleted_and_brought_back(tab: ComfyPage, look: Look, listed: Any, library: Path) -> None:
    text = row(listed, MINE).inner_text()
    for words in ("✓", "for embedded", "6 steps", "guidance 3", "24 % closer", "KB"):
        assert words in text
    assert row(listed, EXAMPLE).get_by_role("button").count() == 1, "what came with the pack can be used, no more"
    tab.shoot(f"library-{look.name}")

    listed.get_by_role("searchbox").fill("TO_KEEP")
    assert listed.locator("li").count() == 1
    listed.get_by_role("searchbox").fill("")

    row(listed, MINE).get_by_role("button", name="Use in this graph").click()
    listed.get_by_text("is chosen in").wait_for()
    assert tab.widgets(LOAD)["file"] == MINE

    row(listed, MINE).get_by_role("button", name="Delete").click()
    undo = listed.get_by_role("button", name="Undo")
    undo.wait_for()
    assert not (library / MINE).exists()
    tab.shoot(f"library-deleted-{look.name}")
    tab.page.wait_for_function("() => document.activeElement?.textContent === 'Undo'")
    tab.page.keyboard.press("Enter")
    listed.get_by_text("is back").wait_for()
    assert (library / MINE).exists()

    row(listed, MINE).get_by_role("button", name="Rename").click()
    listed.get_by_label("Rename").fill("mine_renamed")
    tab.page.keyboard.press("Enter")
    listed.get_by_text("It is now mine_renamed.safetensors").wait_for()
    assert (library / "mine_renamed.safetensors").exists()


def test_a_graph_without_a_load_node_gets_one(tab: ComfyPage, listed: Any) -> None:
    tab.build({"demo": ("DODEDemoModel", {})}, [])
    row(listed, MINE).get_by_role("button", name="Use in this graph").click()
    listed.get_by_text("is chosen in").wait_for()
    assert tab.widgets(LOAD)["file"] == MINE


def test_a_page_without_such_tabs_keeps_the_rest(tab: ComfyPage) -> None:
    said = tab.page.evaluate(
        """async () => {
          const { registerLibraryTab } = await import("/extensions/d-ode/page/sidebar.mjs");
          const { extensionManager } = app, said = [], info = console.info;
          console.info = (text) => said.push(text);
          app.extensionManager = {};
          registerLibraryTab();
          app.extensionManager = extensionManager;
          console.info = info;
          return said;
        }"""
    )
    assert said == ["D-ODE: this page has no sidebar tabs, so that the tab with the distilled samplers is not there."]
