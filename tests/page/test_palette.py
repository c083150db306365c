"""Charts have the page's colours, and the new ones when the palette changes; they are drawings without pixels of their own."""

from tests.page.conftest import Look
from tests.page.graphs import LOAD, loading
from tests.page.page import ComfyPage

# What the chart's text, grid and lines are painted in, and what the style sheet has for them right now.
COLOURS = """() => {
  const panel = document.querySelector(".dode-panel:has(.dode-plot)");
  const lines = [".dode-grid", ".dode-start polyline", ".dode-learned polyline"].map((one) => [one, "stroke"]);
  const painted = [[".dode-plot text", "fill"], ...lines];
  const wanted = ["--dode-text", "--dode-grid", "--dode-before", "--dode-after"].map((name) => {
    const probe = panel.appendChild(document.createElement("i"));
    probe.style.color = `var(${name})`;
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  });
  return { wanted, painted: painted.map(([one, property]) => getComputedStyle(panel.querySelector(one))[property]) };
}"""


def test_the_charts_follow_the_palette(tab: ComfyPage, look: Look) -> None:
    tab.build(*loading(file="demo_model_6_steps.safetensors"))
    tab.look(LOAD)
    tab.page.wait_for_selector(".dode-plot polyline")
    before = tab.page.evaluate(COLOURS)
    assert before["painted"] == before["wanted"]
    other = "dark" if look.light else "light"
    tab.page.evaluate("(palette) => app.extensionManager.setting.set('Comfy.ColorPalette', palette)", other)
    tab.page.wait_for_function(f"(text) => ({COLOURS})().wanted[0] !== text", arg=before["wanted"][0])
    after = tab.page.evaluate(COLOURS)
    assert after["painted"] == after["wanted"]
    assert after["wanted"][1] != before["wanted"][1]
    tab.open(look.vue, look.light)


def test_the_charts_are_sharp_at_every_zoom(tab: ComfyPage) -> None:
    """What is drawn on a canvas is blurred when the graph is zoomed in."""
    tab.build(*loading(file="demo_model_6_steps.safetensors"))
    tab.look(LOAD, 1.5)
    tab.page.wait_for_selector(".dode-plot polyline")
    assert tab.panel(LOAD).query_selector_all("canvas") == []
    tab.shoot(f"sharp-{tab.name}")
