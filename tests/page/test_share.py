"""What people give along with a file: the recipe as text, and the card as a picture."""

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.page.graphs import DISTILL, EXAMPLE, LOAD, distilling, loading
from tests.page.page import ARTEFACTS, ComfyPage

_READ = "() => navigator.clipboard.readText()"


def shared(tab: ComfyPage, kind: str) -> Any:
    """The panel, with the clipboard allowed to be read; it is empty."""
    tab.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab.page.evaluate("() => navigator.clipboard.writeText('')")
    tab.page.wait_for_function("() => document.querySelector('.dode-plot')")
    tab.settle()
    tab.look(kind)
    return tab.panel(kind)


def pressed(panel: Any, name: str) -> str:
    """What the panel says after a press of this button."""
    panel.query_selector(f"button:has-text('{name}')").press("Enter")
    return panel.wait_for_selector("[role=status]:not(:empty)").inner_text()


@pytest.mark.parametrize("secure", [True, False], ids=["on this machine", "over the network"])
def test_the_recipe_is_copied(tab: ComfyPage, secure: bool) -> None:
    """Over plain HTTP from another machine a page has no clipboard of the newer kind."""
    tab.build(*loading(file=EXAMPLE))
    panel = shared(tab, LOAD)
    if not secure:
        tab.page.evaluate("() => Object.defineProperty(navigator, 'clipboard', { value: undefined, configurable: true })")
    try:
        assert pressed(panel, "Copy recipe") == "Copied."
    finally:
        tab.page.evaluate("() => delete navigator.clipboard")
    text = tab.page.evaluate(_READ)
    assert text.startswith(f"{EXAMPLE}\n")
    for words in ("6 steps", "σ: ", "λ (", "Fitted on: "):
        assert words in text


def test_the_card_becomes_a_picture(tab: ComfyPage, tmp_path: Path) -> None:
    tab.build(*loading(file=EXAMPLE))
    panel = shared(tab, LOAD)
    _check(_drawn(tab, panel, tmp_path), f"card-load-{tab.name}", EXAMPLE.removesuffix(".safetensors"))


def test_the_card_of_a_fit_has_its_pictures(tab: ComfyPage, tmp_path: Path) -> None:
    nodes, links = distilling(mode="paper", solver="euler", steps=4, samples=8, save_as="to_show")
    tab.build(nodes, links)
    tab.run()
    tab.page.wait_for_function("() => document.querySelectorAll('.dode-held img').length === 6")
    panel = shared(tab, DISTILL)
    _check(_drawn(tab, panel, tmp_path), f"card-distill-{tab.name}", "to_show")


def _drawn(tab: ComfyPage, panel: Any, folder: Path) -> Path:
    with tab.page.expect_download() as download:
        assert pressed(panel, "Card as picture") == "Saved to your downloads."
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def _check(path: Path, name: str, stem: str) -> None:
    assert re.fullmatch(rf"{stem}(_\d+)?\.png", path.name)
    with Image.open(path) as picture:
        assert picture.size == (1200, 630)
        assert not picture.info.keys() & {"workflow", "prompt", "parameters", "dode"}, "the file stays a safetensors"
        colours = picture.convert("RGB").getcolors(1 << 24)
        assert colours is not None
        assert len(colours) > 50, "an empty card"
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        picture.save(ARTEFACTS / f"{name}.png")
