"""Distill Sampler's settings: four in sight, the others a click away; what has no effect is dimmed and says why."""

import pytest

from tests.page.conftest import Look
from tests.page.graphs import DISTILL, distilling
from tests.page.page import ComfyPage

FEW = ["cfg", "steps", "mode", "save_as"]
_NODE = f"app.rootGraph.nodes.find((n) => n.comfyClass === '{DISTILL}')"
_DIMMED = f"() => {_NODE}.widgets.filter((w) => w.disabled).map((w) => w.name)"
_SET = f"""([name, value]) => {{
  const widget = {_NODE}.widgets.find((w) => w.name === name);
  widget.value = value;
  widget.callback?.(value);
}}"""
# Both renderers leave out what is hidden; Nodes 2.0 also what is advanced, as long as nobody asks for it.
_SHOWN = f"""() => {{
  const node = {_NODE}, element = document.querySelector(`[data-node-id="${{node.id}}"]`);
  const names = node.widgets.filter((w) => w.type !== "dode").map((w) => w.label ?? w.name);
  if (!element) return names.filter((name) => node.isWidgetVisible(node.widgets.find((w) => (w.label ?? w.name) === name)));
  return names.filter((name) => [...element.querySelectorAll("*")].some((e) => !e.children.length && e.textContent === name));
}}"""


def more(tab: ComfyPage, look: Look) -> None:
    if look.vue:
        tab.page.get_by_text("Show advanced inputs").click()
    else:
        tab.page.get_by_role("button", name="More settings").click()


@pytest.mark.both_pages
def test_four_settings_are_in_sight_and_the_others_a_click_away(tab: ComfyPage, look: Look) -> None:
    tab.build({"distill": (DISTILL, {})}, [])
    tab.look(DISTILL)
    assert tab.page.evaluate(_SHOWN) == FEW
    tab.shoot(f"knobs-few-{look.name}")
    more(tab, look)
    tab.look(DISTILL)
    names = [name for name in tab.widgets(DISTILL) if name != "dode_result"]
    assert tab.page.evaluate(_SHOWN) == names
    assert len(names) > 12
    tab.shoot(f"knobs-all-{look.name}")


def test_what_has_no_effect_is_dimmed_and_says_why(tab: ComfyPage) -> None:
    tab.build({"distill": (DISTILL, {})}, [])
    assert tab.page.evaluate(_DIMMED) == ["teacher_substeps", "guard", "prediction", "order"]
    tips = f"() => {_NODE}.widgets.filter((w) => w.disabled).map((w) => w.tooltip)"
    assert tab.page.evaluate(tips) == ["Counts once you choose a teacher.", *3 * ["No effect in mode balanced."]]
    tab.page.evaluate(_SET, ["teacher", "heun"])
    assert tab.page.evaluate(_DIMMED) == ["guard", "prediction", "order"]
    tab.page.evaluate(_SET, ["mode", "paper"])
    assert tab.page.evaluate(_DIMMED) == ["also_steps", "also_cfg"]
    tab.page.evaluate(_SET, ["guard", False])
    tab.page.evaluate(_SET, ["mode", "best"])  # which refuses that, so that it has to be set again
    assert tab.page.evaluate(_DIMMED) == ["prediction", "order"]
    tab.page.evaluate(
        f"() => {{ const own = LiteGraph.createNode('BasicScheduler'); app.rootGraph.add(own);"
        f"own.connect(0, {_NODE}, {_NODE}.findInputSlot('sigmas')); }}"
    )
    tab.page.wait_for_function(f"() => ({_DIMMED})().join() === 'steps,scheduler,prediction,order'")


def test_settings_out_of_sight_that_were_changed_are_named(tab: ComfyPage) -> None:
    nodes, _ = distilling(solver="euler")
    tab.build({"distill": nodes["distill"]}, [])
    words = tab.panel(DISTILL).query_selector(".dode-knobs p")
    assert words.inner_text() == "Also set: solver euler, teacher_substeps 6, samples 24, micro_batch 8."


def test_a_workflow_that_was_saved_before_has_the_values_it_had(tab: ComfyPage) -> None:
    """They are saved by their place; this is what an earlier version wrote."""
    tab.build({"distill": (DISTILL, {})}, [])
    saved = tab.page.evaluate("() => app.rootGraph.serialize()")
    values = [5.5, "heun", 7, "normal", "euler", 12, 30, 2, 9, "paper", "mine", "", "", False, "noise", 2]
    saved["nodes"][0]["widgets_values"] = values
    tab.load(saved)
    assert list(tab.widgets(DISTILL).values())[:16] == values
