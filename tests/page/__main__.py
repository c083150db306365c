"""Makes the README's pictures of the page: ``python -m tests.page [FOLDER]``, by default into docs/images.

A real ComfyUI with its real page in a real browser runs the example workflow; the pictures are what it shows.
"""

import sys
import tempfile
from pathlib import Path

from tests.comfy.server import ROOT, ComfyServer
from tests.comfyui import comfyui_dir
from tests.page.page import ComfyPage, browser_page

EXAMPLES = ROOT / "example_workflows"
DISTILL, LOAD, COMPARE = "DODEDistillSampler", "DODELoad", "DODECompare"


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ComfyUI-") as base:
        server = ComfyServer(comfyui_dir(), Path(base), [ROOT])
        try:
            with browser_page(server, width=1500, height=1500) as tab:
                tab.open(vue=True)
                distilling(tab, folder)
                loading(tab, folder)
                assert tab.complaints == [], tab.complaints
        finally:
            server.close()


def distilling(tab: ComfyPage, folder: Path) -> None:
    """The quick start: while it runs, what it made, and the comparison."""
    tab.load(EXAMPLES / "quick_start.json")
    tab.look(DISTILL)
    tab.queue()
    tab.page.wait_for_selector(".dode-bar")
    tab.page.wait_for_function("() => document.querySelectorAll('.dode-bar ~ div tbody tr').length > 2", timeout=240_000)
    shoot(tab, DISTILL, folder / "page_running.png")
    tab.wait_done(600)
    tab.page.evaluate("() => document.querySelectorAll('.p-toast-message').forEach((each) => each.remove())")
    shoot(tab, DISTILL, folder / "page_result.png")
    shoot(tab, COMPARE, folder / "page_compare.png")


def loading(tab: ComfyPage, folder: Path) -> None:
    tab.load(EXAMPLES / "use_a_shared_file.json")
    tab.look(LOAD)
    tab.page.wait_for_selector(".dode-plot canvas")
    shoot(tab, LOAD, folder / "page_load.png")


def shoot(tab: ComfyPage, kind: str, path: Path) -> None:
    """A picture of one node."""
    tab.look(kind)
    box = tab.box(kind)
    tab.page.screenshot(path=path, clip={"x": box[0] - 12, "y": box[1] - 12, "width": box[2] + 24, "height": box[3] + 24})
    print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images")
