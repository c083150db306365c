"""Chinese and Japanese glyphs for the page: Noto Sans from the npm registry, whatever fonts the machine has."""

import re
from pathlib import Path

from playwright.sync_api import Page, Route

from tests.comfyui import CACHE
from tests.page.packages import fetched, keep

CARRIERS = {"zh": "@fontsource-variable/noto-sans-sc@5.3.1", "ja": "@fontsource-variable/noto-sans-jp@5.3.1"}
FAMILIES = ("Inter", "Arial")  # what the page and its canvas ask for
_FACE = re.compile(r"/\* ([\w\[\]-]+) \*/\s*@font-face \{.*?\}", re.DOTALL)
_ADD = "(rules) => document.head.append(Object.assign(document.createElement('style'), { textContent: rules }))"
# A slice is loaded when a text needs it; a canvas is drawn with what is there and has to be drawn again.
_READY = """async ([families, text]) => {
  await Promise.all(families.map((family) => document.fonts.load(`12px "${family}"`, text)));
  await document.fonts.ready;
  app.canvas.setDirty(true, true);
}"""


def _folder(language: str) -> Path:
    carrier = CARRIERS[language]
    folder = CACHE / carrier.replace("/", "_")
    if not folder.is_dir():
        with fetched(carrier) as package:
            keep(package, folder)
    return folder


def give_glyphs(page: Page, language: str) -> None:
    """Let an opened page draw this language's characters, where the fonts that it asks for have none."""
    folder = _folder(language)
    faces = [found.group() for found in _FACE.finditer((folder / "index.css").read_text(encoding="utf-8")) if "[" in found[1]]
    rules = [
        re.sub(r"font-family: '[^']*'", f"font-family: '{family}'", face).replace("./files/", "/glyphs-of-the-test/")
        for family in FAMILIES
        for face in faces
    ]

    def serve(route: Route) -> None:
        route.fulfill(path=folder / "files" / route.request.url.rpartition("/")[2], content_type="font/woff2")

    page.route("**/glyphs-of-the-test/*", serve)
    page.evaluate(_ADD, "\n".join(rules))


def wait_for_glyphs(page: Page, text: str) -> None:
    """Until the characters of a text can be drawn."""
    page.evaluate(_READY, [list(FAMILIES), text])
