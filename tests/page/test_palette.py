"""Charts are painted in the page's colours, and in the new ones when the palette changes."""

import pytest
from playwright.sync_api import TimeoutError as TimeIsUp

from tests.page.conftest import Look
from tests.page.graphs import loading
from tests.page.page import ComfyPage

LOAD = "DODELoad"

# Each canvas remembers with which colours it was painted since it was last cleared.
WATCH = """() => {
  const { prototype } = CanvasRenderingContext2D;
  const colours = { fillText: "fillStyle", fill: "fillStyle", stroke: "strokeStyle", clearRect: null };
  for (const [method, colour] of Object.entries(colours)) {
    const original = prototype[method];
    prototype[method] = function () {
      if (colour) (this.canvas.painted ??= new Set()).add(this[colour]);
      else this.canvas.painted = new Set();
      return original.apply(this, arguments);
    };
  }
}"""
# The colours that the style sheet has for text, grid and lines right now, as a canvas writes them, and those of the chart.
COLOURS = """() => {
  const panel = document.querySelector(".dode-panel:has(.dode-plot)");
  const context = document.createElement("canvas").getContext("2d");
  const probe = panel.appendChild(document.createElement("i"));
  const wanted = ["--dode-text", "--dode-grid", "--dode-before", "--dode-after"].map((name) => {
    probe.style.color = `var(${name})`;
    context.fillStyle = getComputedStyle(probe).color;
    return context.fillStyle;
  });
  probe.remove();
  return { wanted, painted: [...(panel.querySelector(".dode-plot canvas")?.painted ?? [])] };
}"""
SAME = f"""() => {{
  const {{ wanted, painted }} = ({COLOURS})();
  return String([...new Set(wanted)].sort()) === String(painted.sort());
}}"""
OTHERS = f"([text, grid]) => {{ const {{ wanted }} = ({COLOURS})(); return wanted[0] !== text && wanted[1] !== grid; }}"


def painted_as_wanted(tab: ComfyPage) -> list[str]:
    """The colours of text, grid and lines, once the chart is painted in just those that the page has for them."""
    try:
        tab.page.wait_for_function(SAME)
    except TimeIsUp:
        pytest.fail(f"The chart is not painted in the page's colours: {tab.page.evaluate(COLOURS)}")
    return tab.page.evaluate(COLOURS)["wanted"]


def test_the_charts_follow_the_palette(tab: ComfyPage, look: Look) -> None:
    tab.page.evaluate(WATCH)
    tab.build(*loading(file="demo_model_6_steps.safetensors"))
    tab.look(LOAD)
    tab.page.wait_for_selector(".dode-plot canvas")
    before = painted_as_wanted(tab)
    other = "dark" if look.light else "light"
    tab.page.evaluate("(palette) => app.extensionManager.setting.set('Comfy.ColorPalette', palette)", other)
    tab.page.wait_for_function(OTHERS, arg=before[:2])
    painted_as_wanted(tab)
    for name in ("λ", "Error"):  # as drawn anew
        tab.panel(LOAD).query_selector(f"button[role=radio]:has-text('{name}')").click()
    painted_as_wanted(tab)
    tab.open(look.vue, look.light)
