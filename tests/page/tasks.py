"""Five things that somebody new wants, done as a person does them, with each click, text and choice counted.

``python -m tests.page.tasks`` prints the counts; with a folder, those of the pack in it, such as an older one's.
"""

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dode
from tests.comfy.server import ROOT, ComfyServer
from tests.comfyui import comfyui_dir
from tests.page.graphs import DEMO, TEXTS
from tests.page.page import ComfyPage, browser_page

STRANGERS = "from_a_stranger.safetensors"
_ASKED = "button[data-testid=queue-button]"
# The panel with the host's log is a terminal, which breaks lines where it is full.
_LOGGED = """(words) => [...document.querySelectorAll(".xterm-rows")].some((rows) =>
  rows.textContent.replace(/\\s+/g, "").includes(words.replace(/\\s+/g, "")))"""


@dataclass
class Person:
    """Uses the page, and counts."""

    tab: ComfyPage
    done: list[str] = field(default_factory=list)

    def click(self, what: str, where: Any) -> None:
        self.done.append(f"click {what}")
        where.first.click()

    def write(self, what: str, where: Any, text: str) -> None:
        self.done.append(f"write {what}")
        where.first.fill(text)
        where.first.press("Enter")

    def run(self) -> None:
        self.tab.page.evaluate("() => Object.assign(heard, { ended: null })")
        self.click("Run", self.tab.page.locator(_ASKED))
        self.tab.wait_done(600)

    def node(self, title: str) -> Any:
        return self.tab.page.locator("[data-node-id]", has_text=title)

    def pick(self, node: str, widget: str, choice: str) -> None:
        """A choice of a list on a node."""
        self.click(f"the list {widget}", self.node(node).get_by_label(widget, exact=True))
        self.click(choice, self.tab.page.get_by_role("option", name=choice, exact=True).locator("visible=true"))


def first_fit(person: Person) -> None:
    """A first fit, on the demo model."""
    page = person.tab.page
    person.click("Templates", page.get_by_role("button", name="Templates"))
    person.click("the template", page.locator("[data-testid^=template-workflow-]", has_text="uick start"))
    page.locator("[data-node-id]", has_text="Distill Sampler").first.wait_for()
    person.tab.settle()
    person.run()
    assert list((person.tab.server.base / "output" / "dode").glob("quick_start*.safetensors"))


def in_ksampler(person: Person) -> None:
    """Use it in KSampler, in a workflow of one's own."""
    nodes = {**DEMO, "sampler": ("KSampler", {"steps": 4, "cfg": 2.5, "denoise": 1.0}), "shown": ("VAEDecode", {})}
    nodes |= {"saved": ("PreviewImage", {})}
    sockets = [("demo", 0, "model"), ("positive", 0, "positive"), ("negative", 0, "negative"), ("demo", 3, "latent_image")]
    links = [*TEXTS, *((node, output, "sampler", name) for node, output, name in sockets), ("sampler", 0, "shown", "samples")]
    person.tab.build(nodes, [*links, ("demo", 2, "shown", "vae"), ("shown", 0, "saved", "images")])
    person.tab.look("KSampler")
    person.pick("KSampler", "sampler_name", "dode")
    person.pick("KSampler", "scheduler", "dode")
    person.run()
    assert "KSampler uses quick_start" in person.tab.server.log()


def why_not(person: Person) -> None:
    """Find out why it is not used at cfg 5."""
    page = person.tab.page
    person.write("cfg", person.node("KSampler").get_by_label("cfg", exact=True).get_by_role("spinbutton"), "5")
    person.run()
    person.click("the bottom panel", page.get_by_role("button", name="Toggle Bottom Panel"))
    rows = page.locator(".xterm-rows").first
    rows.locator("div").first.wait_for()
    if not page.evaluate(_LOGGED, "was fitted at guidance 2.5"):
        person.done.append("scroll up")
        rows.hover()
    while not page.evaluate(_LOGGED, "was fitted at guidance 2.5"):
        page.mouse.wheel(0, -100)
        page.wait_for_timeout(100)
    page.get_by_role("button", name="Toggle Bottom Panel").click()


def judge(person: Person) -> None:
    """Import a file from somebody else, and see for what it is and what it is worth."""
    page = person.tab.page
    tab = page.get_by_role("button", name="Distilled samplers")
    if tab.count():
        person.click("the tab D-ODE", tab)
        place = page.locator(".dode-library")
        button, worth = place.get_by_role("button", name="Import"), "24 % closer"
    else:
        person.done.append("double-click the canvas")
        page.mouse.dblclick(700, 1060)
        search, place = page.get_by_placeholder("Add a node"), person.node("Load D-ODE")
        person.done.append("write load d-ode")
        search.fill("load d-ode")
        place.first.wait_for()  # what is found is shown beside the list
        search.press("Enter")
        search.wait_for(state="detached")
        person.done.append("click where the node is to be")
        page.mouse.click(700, 1000)
        person.tab.look("DODELoad")
        button, worth = place.get_by_role("button", name="Import"), "24 %"  # as the older page says it
    with page.expect_file_chooser() as chooser:
        person.click("Import", button)
    person.done.append("choose the file")
    chooser.value.set_files(person.tab.server.base / STRANGERS)
    place.get_by_text(STRANGERS.removesuffix(".safetensors")).first.wait_for()
    place.get_by_text(worth).first.wait_for()


def undo(person: Person) -> None:
    """Undo all of it: both files are gone from the lists, and the sampler is what it was."""
    page = person.tab.page
    listed = page.locator(".dode-library")
    if not listed.count():
        raise NotImplementedError("the page has no way to delete a file")
    for name in ("quick_start", STRANGERS):
        row = listed.locator("li", has_text=name)
        person.click(f"Delete at {name}", row.get_by_role("button", name="Delete"))
        listed.get_by_role("button", name="Undo").wait_for()
        listed.locator("li", has_text=name).wait_for(state="detached")
    person.tab.look("KSampler")
    person.pick("KSampler", "sampler_name", "euler")
    person.pick("KSampler", "scheduler", "normal")
    folders = [person.tab.server.base / place / "dode" for place in ("output", "models")]
    assert not [path for folder in folders for path in folder.glob("*.safetensors")]


TASKS: tuple[Callable[[Person], None], ...] = (first_fit, in_ksampler, why_not, judge, undo)


def counts(pack: Path, base: Path) -> dict[str, list[str] | str]:
    """What each task took: what was done, or why it cannot be done. The pack is the one in the folder."""
    (entry,) = dode.load_parameters(ROOT / "example_parameters" / "demo_model_6_steps.safetensors").entries
    server = ComfyServer(comfyui_dir(), base, [pack])
    found: dict[str, list[str] | str] = {}
    try:
        dode.save_parameters(server.base / STRANGERS, [entry])
        with browser_page(server, width=1500, height=1100) as tab:
            tab.open(vue=True)
            for task in TASKS:
                person = Person(tab)
                words = (task.__doc__ or "").partition("\n")[0]
                try:
                    task(person)
                    found[words] = person.done
                except NotImplementedError as error:
                    found[words] = str(error)
    finally:
        server.close()
    return found


def main(pack: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="ComfyUI-") as base:
        for task, done in counts(pack, Path(base)).items():
            print(f"{task}\n    {done if isinstance(done, str) else f'{len(done)}: ' + ', '.join(done)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT)
