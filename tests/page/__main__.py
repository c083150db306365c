"""Makes the pictures of the page anew: ``python -m tests.page``.

A real ComfyUI with its real page in a real browser runs the example workflows. What it shows becomes the README's pictures
(``docs/images/page_*.png``) and the templates' thumbnails (``example_workflows/*.jpg``). With a folder, all go there instead.
"""

import io
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from playwright.sync_api import FloatRect

from tests.comfy.server import ROOT, ComfyServer
from tests.comfyui import comfyui_dir
from tests.page.graphs import COMPARE, DISTILL, LOAD
from tests.page.page import ComfyPage, browser_page

EXAMPLES = ROOT / "example_workflows"
SIDE = 512  # of a thumbnail, in pixels: the host shows them as squares
Box = tuple[float, float, float, float]


def main(folder: Path | None) -> None:
    readme, templates = (folder, folder) if folder else (ROOT / "docs" / "images", EXAMPLES)
    readme.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ComfyUI-") as base:
        server = ComfyServer(comfyui_dir(), Path(base), [ROOT])
        try:
            with browser_page(server, width=1500, height=1500) as tab:
                tab.open(vue=True)
                quick_start(tab, readme)
                thumbnail(templates, "1 Quick start", divided(tab))
                run(tab, "2 Distill on your checkpoint")
                thumbnail(templates, "2 Distill on your checkpoint", learned(tab))
                run(tab, "5 Compare")
                thumbnail(templates, "5 Compare", beside(tab))
                run(tab, "3 Use a shared file")
                shoot(tab, LOAD, readme / "page_load.png")
                thumbnail(templates, "3 Use a shared file", made(tab))
                run(tab, "4 KSampler alone")
                thumbnail(templates, "4 KSampler alone", made(tab))
                assert tab.complaints == [], tab.complaints
        finally:
            server.close()


def quick_start(tab: ComfyPage, folder: Path) -> None:
    """While it runs, what it made, and the comparison."""

    def running() -> None:
        tab.look(DISTILL)
        tab.wait_points(2)
        shoot(tab, DISTILL, folder / "page_running.png")

    run(tab, "1 Quick start", running)
    shoot(tab, DISTILL, folder / "page_result.png")
    shoot(tab, COMPARE, folder / "page_compare.png")


def run(tab: ComfyPage, example: str, meanwhile: Callable[[], None] = lambda: None) -> None:
    tab.load(EXAMPLES / f"{example}.json")
    tab.settle()
    tab.queue()
    meanwhile()
    tab.wait_done(900)
    assert tab.page.evaluate("() => heard.ended") == "execution_success", example
    tab.page.evaluate("() => document.querySelectorAll('.p-toast-message').forEach((each) => each.remove())")


def shoot(tab: ComfyPage, kind: str, path: Path) -> None:
    """A picture of one node."""
    tab.look(kind)
    left, top, width, height = tab.box(kind)
    picture(tab, (left - 12, top - 12, width + 24, height + 24)).save(path)
    print(path)


def picture(tab: ComfyPage, box: Box) -> Image.Image:
    left, top, width, height = box
    clip: FloatRect = {"x": left, "y": top, "width": width, "height": height}
    return Image.open(io.BytesIO(tab.page.screenshot(clip=clip))).convert("RGB")


def part(tab: ComfyPage, kind: str, zoom: float, *classes: str) -> Box:
    """The smallest box around elements of a node's panel."""
    tab.look(kind, zoom)
    found = [tab.panel(kind).query_selector(f".{each}").bounding_box() for each in classes]
    left, top = (min(box[side] for box in found) for side in ("x", "y"))
    right, bottom = (max(box[a] + box[b] for box in found) for a, b in (("x", "width"), ("y", "height")))
    return left, top, right - left, bottom - top


def divided(tab: ComfyPage) -> Image.Image:
    """Two of the pictures under the slider, with their errors."""
    return picture(tab, part(tab, COMPARE, 1.3, "dode-stage", "dode-pair"))


def learned(tab: ComfyPage) -> Image.Image:
    """What the fit is worth, and what was learned."""
    tab.panel(DISTILL).query_selector("button[role=radio]:has-text('λ')").click()
    left, top, width, height = part(tab, DISTILL, 1.2, "dode-headline", "dode-plot")
    return picture(tab, (left - 12, top - 4, width + 24, height + 4))


def beside(tab: ComfyPage) -> Image.Image:
    """Two noises, one under the other, each with the three pictures side by side."""
    panel, rows = tab.panel(COMPARE), list[Image.Image]()
    panel.query_selector("button:has-text('Side by side')").click()
    for _ in range(2):
        rows.append(picture(tab, part(tab, COMPARE, 1.4, "dode-beside")))
        panel.query_selector("button:has-text('›')").click()
    sheet = Image.new("RGB", (rows[0].width, sum(row.height + 6 for row in rows)), rows[0].getpixel((0, rows[0].height - 1)))
    for number, row in enumerate(rows):
        sheet.paste(row, (0, number * (row.height + 6)))
    return sheet


def made(tab: ComfyPage) -> Image.Image:
    """Four pictures that the workflow made."""
    (last,) = tab.server.get("/history?max_items=1").values()
    shown = [each for output in last["outputs"].values() for each in output.get("images", [])][:4]
    files = [tab.server.base / each["type"] / each["subfolder"] / each["filename"] for each in shown]
    sheet = Image.new("RGB", (SIDE, SIDE))
    for number, file in enumerate(files):
        with Image.open(file) as one:
            half = one.convert("RGB").resize((SIDE // 2, SIDE // 2))
        sheet.paste(half, (SIDE // 2 * (number % 2), SIDE // 2 * (number // 2)))
    return sheet


def thumbnail(folder: Path, name: str, shown: Image.Image) -> None:
    """The picture in a square, on its own background."""
    shown.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    square = Image.new("RGB", (SIDE, SIDE), shown.getpixel((2, shown.height - 2)))
    square.paste(shown, ((SIDE - shown.width) // 2, (SIDE - shown.height) // 2))
    square.save(folder / f"{name}.jpg", quality=90)
    print(folder / f"{name}.jpg")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
