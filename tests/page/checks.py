"""What holds for every panel in every look and language."""

import pytest

from tests.page.graphs import COMPARE, DISTILL, INSPECT, LOAD, everything
from tests.page.page import ComfyPage

ZOOMS = (0.75, 1.5)  # what people zoom to


def fits(tab: ComfyPage, kind: str, zooms: tuple[float, ...] = ZOOMS) -> None:
    """Nothing is cut off or hangs out of the node."""
    for zoom in zooms:
        tab.look(kind, zoom)  # which waits until nothing moves
        sizes = tab.panel(kind).evaluate(
            "(outer) => { const inner = outer.firstElementChild; return {"
            "room: [outer.clientWidth, outer.clientHeight], content: [inner.scrollWidth, inner.scrollHeight],"
            "shown: outer.getBoundingClientRect().width / outer.offsetWidth }; }"
        )
        for room, content in zip(sizes["room"], sizes["content"], strict=True):
            assert content <= room + 1, (zoom, sizes)
        assert sizes["shown"] == pytest.approx(zoom, rel=0.02)
        tab.shoot("-".join([kind, *([str(int(100 * zoom))] * (zoom != 1)), tab.name]))
    if zooms[-1] != 1:
        tab.look(kind)


def pictures(tab: ComfyPage) -> None:
    """Run a workflow with all panels and keep a picture of each; of a fit also while it runs. Nothing is cut off."""
    tab.build(*everything(save_as=f"pictures/{tab.name}"))
    tab.look(DISTILL)
    tab.queue()
    tab.page.wait_for_selector(".dode-bar")
    tab.shoot(f"running-{tab.name}")
    tab.wait_done()
    for kind in (DISTILL, LOAD, INSPECT, COMPARE):
        fits(tab, kind, (1.0,))
