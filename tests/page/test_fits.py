"""The list in Load D-ODE Parameters: what fits the model is marked, and of the rest it says why not."""

from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Route

import dode
from tests.comfy.server import ROOT
from tests.page.conftest import Look
from tests.page.graphs import loading
from tests.page.page import ComfyPage

EXAMPLE, OTHER = "demo_model_6_steps.safetensors", "for_another_model.safetensors"
_LOAD = "app.rootGraph.nodes.find((n) => n.comfyClass === 'DODELoad')"
_WIDGET = f"{_LOAD}.widgets.find((w) => w.name === 'file')"
_LABEL = f"(file) => {_WIDGET}.options.getOptionLabel(file)"


@pytest.fixture
def other(library: Path) -> None:
    """A file for a model of another kind, in the library."""
    (entry,) = dode.load_parameters(ROOT / "example_parameters" / EXAMPLE).entries
    model = replace(entry.model, family="SDXL", name="xl.safetensors", channels=4)
    dode.save_parameters(library / OTHER, [replace(entry, model=model)], overwrite=True)


def label(tab: ComfyPage, file: str) -> str:
    return tab.page.evaluate(_LABEL, file)


def settled(tab: ComfyPage, file: str, mark: str) -> str:
    """The label, once it has this mark."""
    tab.page.wait_for_function(f"([file, mark]) => ({_LABEL})(file).startsWith(mark)", arg=[file, mark])
    return label(tab, file)


@pytest.mark.both_pages
@pytest.mark.usefixtures("other")
def test_the_list_marks_what_fits_the_connected_model(tab: ComfyPage, look: Look) -> None:
    tab.build(*loading(file=EXAMPLE))
    tab.page.evaluate("() => app.refreshComboInNodes()")
    assert settled(tab, EXAMPLE, "✓") == f"✓ {EXAMPLE}"
    why = settled(tab, OTHER, "✗")
    assert "fitted for the architecture 'SDXL', this model has 'dode.demo.UNet'" in why
    tab.look("DODELoad", top=True)  # where the list is, however tall the panel is by now
    if look.vue:
        tab.page.locator("[data-node-id]", has_text="Load D-ODE").get_by_text(f"✓ {EXAMPLE}").first.wait_for()
        tab.page.locator("[data-node-id]", has_text="Load D-ODE").get_by_text(f"✓ {EXAMPLE}").first.click()
        tab.page.get_by_text("✗ for_another_model").locator("visible=true").first.wait_for()
        tab.shoot(f"fits-{look.name}")
        tab.page.keyboard.press("Escape")
    else:
        assert tab.page.evaluate(f"() => {_WIDGET}._displayValue") == f"✓ {EXAMPLE}"
        tab.shoot(f"fits-{look.name}")
    assert tab.widgets("DODELoad")["file"] == EXAMPLE


@pytest.mark.both_pages
@pytest.mark.usefixtures("other")
def test_without_a_model_nothing_is_marked_and_a_new_link_is_seen(tab: ComfyPage) -> None:
    nodes, links = loading(file=EXAMPLE)
    del nodes["demo"]
    tab.build(nodes, [each for each in links if each[0] != "demo"])
    tab.page.evaluate("() => app.refreshComboInNodes()")
    tab.page.wait_for_timeout(500)
    assert [label(tab, file) for file in (EXAMPLE, OTHER)] == [EXAMPLE, OTHER]
    tab.page.evaluate(
        f"""() => {{
          const node = LiteGraph.createNode("DODEDemoModel"), load = {_LOAD};
          app.rootGraph.add(node);
          node.connect(0, load, load.findInputSlot("model"));
        }}"""
    )
    assert settled(tab, EXAMPLE, "✓")


@pytest.mark.both_pages
def test_a_mark_that_comes_after_the_list_was_drawn_is_shown(tab: ComfyPage, look: Look) -> None:
    held: list[Route] = []
    drawn = False
    tab.page.route("**/dode/library?*", lambda route: route.continue_() if drawn else held.append(route))
    tab.build(*loading(file=EXAMPLE))
    tab.look("DODELoad")
    while not held:
        tab.page.wait_for_timeout(50)
    tab.settle()
    drawn = True
    for route in held:
        route.continue_()
    if look.vue:
        tab.page.locator("[data-node-id]", has_text="Load D-ODE").get_by_text(f"✓ {EXAMPLE}").first.wait_for()
    else:
        tab.page.wait_for_function(f"() => {_WIDGET}._displayValue === '✓ {EXAMPLE}'")
    tab.page.unroute("**/dode/library?*")


_INSIDE = """async (kinds) => {
  const other = LiteGraph.createNode("CheckpointLoaderSimple"); // so that there is not one checkpoint alone in the workflow
  app.rootGraph.add(other);
  other.widgets.find((w) => w.name === "ckpt_name").value = "other.safetensors";
  for (const kind of kinds)
    app.rootGraph.convertToSubgraph(new Set([app.rootGraph.nodes.find((n) => n.comfyClass === kind)]));
  const { checkpointOf } = await import("/extensions/d-ode/page/checkpoint.mjs");
  const { everyNode } = await import("/extensions/d-ode/page/graph.mjs");
  return checkpointOf(everyNode().find((n) => n.comfyClass === "DODELoad"));
}"""


@pytest.mark.both_pages
@pytest.mark.parametrize("inside", [[], ["DODELoad"], ["DODEDemoModel"], ["DODEDemoModel", "DODELoad"]], ids="+".join)
def test_a_model_is_followed_into_subgraphs_and_out_of_them(tab: ComfyPage, inside: list[str]) -> None:
    tab.build(*loading(file=EXAMPLE))
    assert tab.page.evaluate(_INSIDE, inside) == "embedded"
