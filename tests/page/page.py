"""ComfyUI's page as a person has it, and what the tests do there: choose how it looks, open a workflow, run it, look."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import ConsoleMessage, Page, sync_playwright

from tests.comfy.server import ROOT, ComfyServer
from tests.page.browser import FLAGS, find_browser

ARTEFACTS = ROOT / "test_artifacts" / "page"
# What a fresh page of the host's own says, with its templates and its user files missing; anything else is ours to explain.
_HOSTS_OWN = (
    r"Failed to load resource: the server responded with a status of 404",
    r"legacy queue/history menu is deprecated",
    r"ComfyApp graph accessed before initialization",
    r"ComfyApp\.open_maskeditor is deprecated",
    r"Error loading (fuse options|core workflow templates)",
    r"Autofocus processing was blocked",
    r"Invalid layout total size",  # its own side panels, on the newest page
    r"input\.link is deprecated",  # read by its own nodes; that ours do not is test_newest.py's business
    r"huggingface\.co",  # the workflow that a fresh page opens asks for models that are not there
)
# A machine that is busy takes its time; what is awaited comes at once on others.
PATIENCE = 120_000
_QUIET_SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Workflow.Persist": True,
    "Comfy.Minimap.Visible": False,
    "Comfy.Graph.CanvasInfo": False,
}


class ComfyPage:
    """A browser tab with ComfyUI's page.

    Attributes:
        complaints: console errors and warnings, uncaught errors and failed requests that the host's own page does not have.
    """

    def __init__(self, page: Page, server: ComfyServer):
        self.page, self.server, self.complaints, self.name = page, server, list[str](), ""
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.complaints.append(f"uncaught: {error}"))
        page.on("response", self._response)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not any(re.search(own, message.text) for own in _HOSTS_OWN):
            self.complaints.append(f"{message.type}: {message.text[:500]}")

    def _response(self, response: Any) -> None:
        path = response.url.partition("?")[0]
        if response.status >= 400 and ("/extensions/d-ode/" in path or "/dode/" in path):
            self.complaints.append(f"{response.status} for {response.url}")

    def open(self, vue: bool, light: bool = False, locale: str = "en") -> "ComfyPage":
        """Load the page with one of the renderers and palettes."""
        looks = {"Comfy.VueNodes.Enabled": vue, "Comfy.ColorPalette": "light" if light else "dark", "Comfy.Locale": locale}
        self.server.post("/settings", {**_QUIET_SETTINGS, **looks})
        self.page.goto(f"http://127.0.0.1:{self.server.port}/")
        return self.ready()

    def ready(self) -> "ComfyPage":
        """Wait until the page can be used."""
        self.page.wait_for_function("window.app?.extensionManager && app.canvas && app.rootGraph")
        self.page.evaluate(_LISTEN)
        self.page.wait_for_function("!document.querySelector('#splash-loader, .p-blockui-mask')")
        return self

    def reload(self, saved: str) -> None:
        """Load the page anew, once the draft that it keeps has these words in it. It looks for changes at a key or a click."""
        self.page.keyboard.press("Shift")
        self.page.wait_for_function("(words) => Object.values({ ...localStorage }).some((v) => v.includes(words))", arg=saved)
        self.page.reload()
        self.ready()

    def load(self, workflow: dict[str, Any] | Path) -> None:
        """Open a workflow in the page's format."""
        if isinstance(workflow, Path):
            workflow = json.loads(workflow.read_text(encoding="utf-8"))
        self.page.evaluate("(workflow) => app.loadGraphData(workflow)", workflow)

    def build(self, nodes: dict[str, tuple[str, dict[str, Any]]], links: list[tuple[str, int, str, str]]) -> None:
        """Make a workflow as a person does: nodes by key with their widgets' values, links (from, output, to, input's name)."""
        self.load(_BLANK)
        self.page.evaluate(_BUILD, {"nodes": nodes, "links": links})

    def run(self, seconds: float = 240) -> None:
        """Queue the workflow and wait until the server is done with it."""
        self.queue()
        self.wait_done(seconds)

    def queue(self) -> None:
        self.page.evaluate("() => { Object.assign(heard, { previews: 0, progress: [], ended: null }); app.queuePrompt(0, 1); }")

    def wait_done(self, seconds: float = 240) -> None:
        """Until the page has been told that the workflow ended, and with it of all results."""
        self.page.wait_for_function("() => heard.ended", timeout=1000 * seconds)
        self.settle()

    def wait_points(self, number: int, seconds: float = 240) -> None:
        """Until the curve of a running fit has so many points; or the run's end, if that comes first."""
        enough = "(number) => heard.ended || heard.progress.at(-1)?.rows.length >= number"
        self.page.wait_for_function(enough, arg=number, timeout=1000 * seconds)

    def settle(self) -> None:
        """Until nothing moves on the page any more."""
        self.page.evaluate(_SETTLED)

    def previews(self) -> int:
        """How many pictures of a running fit have come."""
        return self.page.evaluate("() => heard.previews")

    def progress(self) -> list[dict[str, Any]]:
        """What a running fit's panel showed after each message."""
        return self.page.evaluate("() => heard.progress")

    def widgets(self, kind: str) -> dict[str, Any]:
        """The values of a node's widgets, by name."""
        return self.page.evaluate(
            "(kind) => Object.fromEntries(app.rootGraph.nodes.find((n) => n.comfyClass === kind)"
            ".widgets.map((w) => [w.name, w.type === 'dode' ? null : w.value]))",
            kind,
        )

    @contextmanager
    def expected_refusal(self, status: int = 422) -> Iterator[None]:
        """The server refuses something in here, and the browser's console says so."""
        before = len(self.complaints)
        yield
        said = self.complaints[before:]
        assert all(str(status) in line for line in said), said
        del self.complaints[before:]

    def panel(self, kind: str) -> Any:
        """The panel's element of the only node of this class."""
        handle = self.page.evaluate_handle(
            "(kind) => app.rootGraph.nodes.find((n) => n.comfyClass === kind).widgets.find((w) => w.type === 'dode').element",
            kind,
        )
        return handle.as_element()

    def look(self, kind: str, zoom: float = 1.0, top: bool = False) -> None:
        """Bring a node into the middle of the view; with `top` its title near the top, where it stays if the node grows."""
        self.page.evaluate(_LOOK, {"kind": kind, "zoom": zoom, "top": top})
        self.settle()

    def box(self, kind: str) -> tuple[float, float, float, float]:
        """Where a node is on the page: left, top, width, height, its title included."""
        return tuple(self.page.evaluate(_BOX, kind))

    def shoot(self, name: str, whole: bool = True) -> Path:
        """Keep a picture of the page among the artefacts."""
        self.settle()
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        path = ARTEFACTS / f"{name}.png"
        self.page.screenshot(path=path, full_page=whole)
        return path


@contextmanager
def browser_page(server: ComfyServer, width: int = 1280, height: int = 900) -> Iterator[ComfyPage]:
    """A fresh browser with one tab."""
    found = find_browser()
    with sync_playwright() as playwright:
        environment: dict[str, str | float | bool] = {**os.environ, **found.environment}
        browser = playwright.chromium.launch(executable_path=found.executable, args=list(FLAGS), env=environment)
        try:
            page = browser.new_page(viewport={"width": width, "height": height}, locale="en-US")
            page.set_default_timeout(PATIENCE)
            yield ComfyPage(page, server)
        finally:
            browser.close()


# Our listeners come after the pack's own: what a message changed is there.
_LISTEN = """() => {
  window.heard = { previews: 0, progress: [], ended: null };
  const shown = (one) => document.querySelector(one);
  const texts = (all) => [...document.querySelectorAll(all)].map((each) => each.textContent);
  const cells = (row) => [...row.cells].map((c) => c.textContent).filter((text) => text !== "–").join("|");
  app.api.addEventListener("b_preview", () => heard.previews++);
  app.api.addEventListener("dode.progress", () => heard.progress.push({
    part: Number(shown(".dode-bar")?.getAttribute("aria-valuenow")),
    stages: texts(".dode-stages li"),
    done: texts(".dode-stages .dode-done"),
    stage: shown(".dode-stages [aria-current]")?.textContent,
    left: shown(".dode-bar + p")?.textContent,
    stop: shown(".dode-stop:not([hidden])")?.textContent,
    picture: shown(".dode-preview:not([hidden])")?.src ?? null,
    rows: [...document.querySelectorAll(".dode-bar ~ div tbody tr")].map(cells),
  }));
  for (const kind of ["execution_success", "execution_error", "execution_interrupted"])
    app.api.addEventListener(kind, () => (heard.ended = kind));
}"""

_SETTLED = """async () => {
  const frame = () => new Promise(requestAnimationFrame);
  const moving = ".dode-panel, .dode-panel canvas, [data-node-id]";
  const where = () => JSON.stringify([...document.querySelectorAll(moving)].map((each) => each.getBoundingClientRect()));
  let last, since, frames = 0;
  for (const begun = performance.now(); performance.now() - begun < 20_000; await frame()) {
    const now = where();
    if (now !== last) [last, since, frames] = [now, performance.now(), 0];
    if (++frames > 4 && performance.now() - since > 250) return;
  }
}"""

_BLANK: dict[str, Any] = {"last_node_id": 0, "last_link_id": 0, "nodes": [], "links": [], "groups": [], "version": 0.4}

_BUILD = """({nodes, links}) => {
  const made = {};
  let x = 40;
  for (const [key, [kind, values]] of Object.entries(nodes)) {
    const node = LiteGraph.createNode(kind);
    app.rootGraph.add(node);
    node.pos = [x, 80];
    for (const [name, value] of Object.entries(values)) {
      const widget = node.widgets.find((w) => w.name === name);
      if (!widget) throw new Error(`${kind} has no widget ${name}`);
      widget.value = value;
      widget.callback?.(value);
    }
    x += node.size[0] + 60;
    made[key] = node;
  }
  for (const [from, output, to, input] of links) {
    const slot = made[to].findInputSlot(input);
    if (slot < 0) throw new Error(`${to} has no input ${input}`);
    made[from].connect(output, made[to], slot);
  }
}"""

_BOX = """(kind) => {
  const node = app.rootGraph.nodes.find((n) => n.comfyClass === kind), { ds, canvas } = app.canvas;
  const area = canvas.getBoundingClientRect(), title = 32;
  const left = area.left + (node.pos[0] + ds.offset[0]) * ds.scale;
  const top = area.top + (node.pos[1] - title + ds.offset[1]) * ds.scale;
  const element = document.querySelector(`[data-node-id="${node.id}"]`)?.getBoundingClientRect();
  if (element) return [element.left, element.top, element.width, element.height];
  return [left, top, node.size[0] * ds.scale, (node.size[1] + title) * ds.scale];
}"""

_LOOK = """({kind, zoom, top}) => {
  const node = app.rootGraph.nodes.find((n) => n.comfyClass === kind);
  const { canvas } = app, { ds } = canvas, area = canvas.canvas.getBoundingClientRect();
  ds.scale = zoom;
  const height = node.size[1] + 30, fits = height * zoom < area.height - 120;
  ds.offset[0] = -node.pos[0] + (area.width / zoom - node.size[0]) / 2;
  // What does not fit is shown from its end, where the panel is.
  const above = fits ? (area.height / zoom - node.size[1]) / 2 : (area.height - 50) / zoom - node.size[1];
  ds.offset[1] = -node.pos[1] + (top ? 150 / zoom : above);
  canvas.setDirty(true, true);
}"""
