"""The page in the three languages, and the help that it shows."""

from collections.abc import Iterator

import pytest

from tests.comfy.server import ComfyServer
from tests.page.graphs import loading
from tests.page.page import ComfyPage, browser_page

LOAD = "DODELoad"
SAID = {
    "zh": ("加载 D-ODE 参数", "6 步，6 次求值", "误差"),
    "ja": ("D-ODE パラメータを読み込む", "6 ステップ、評価 6 回", "誤差"),
}


@pytest.fixture(scope="module")
def browser(page_server: ComfyServer) -> Iterator[ComfyPage]:
    with browser_page(page_server) as page:
        yield page


@pytest.mark.parametrize("language", list(SAID))
def test_nodes_and_panels_speak_the_language(browser: ComfyPage, language: str) -> None:
    browser.complaints.clear()
    browser.open(vue=True, locale=language)
    browser.build(*loading(file="demo_model_6_steps.safetensors"))
    browser.page.wait_for_selector(".dode-facts")
    title, steps, error = SAID[language]
    assert browser.page.evaluate("() => app.rootGraph.nodes.find((n) => n.comfyClass === 'DODELoad').title") == title
    text = browser.panel(LOAD).inner_text()
    assert steps in text
    assert error in text
    browser.look(LOAD)
    browser.shoot(f"load-{language}")
    assert browser.complaints == []


def test_the_page_shows_a_nodes_help(browser: ComfyPage) -> None:
    browser.complaints.clear()
    browser.open(vue=False)
    browser.build(*loading(file="demo_model_6_steps.safetensors"))
    browser.look(LOAD, 0.7)
    browser.page.evaluate("() => app.canvas.selectNode(app.rootGraph.nodes.find((n) => n.comfyClass === 'DODELoad'))")
    browser.page.locator("[data-testid=info-button]").click()
    browser.page.get_by_text("Takes a distilled sampler from").wait_for()
    browser.shoot("help")
    # The page looks for a page in its language first, and takes the one without a language then.
    assert [line for line in browser.complaints if not line.endswith("/docs/DODELoad/en.md")] == []
