"""The page in the three languages, and the help that it shows."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.comfy.server import ROOT, ComfyServer
from tests.page.checks import pictures
from tests.page.fonts import CARRIERS, give_glyphs, wait_for_glyphs
from tests.page.graphs import EXAMPLE, LOAD, loading
from tests.page.page import ComfyPage, browser_page

# Not by choosing it in the graph, which the page opens again with the next look.
RENAME = """async (file) => {
  const { renameFile } = await import("/extensions/d-ode/page/files.mjs");
  return renameFile(file, "another").then(() => "", (error) => error.message);
}"""
SAID = {
    "zh": ("加载 D-ODE 参数", "6 步，6 次求值", "误差"),
    "ja": ("D-ODE パラメータを読み込む", "6 ステップ、評価 6 回", "誤差"),
}


WRONG = {
    "zh": (
        "参数文件已损坏或不完整：broken.safetensors was not imported",
        "这些参数不能用在这里：",
        "没有这个参数文件。按 R 刷新列表。",
    ),
    "ja": (
        "パラメータファイルが壊れているか、途中で切れています：broken.safetensors was not imported",
        "このパラメータはここでは使えません：",
        "そのパラメータファイルはありません。R キーで一覧を更新してください。",
    ),
}


# French has no page of its own: it gets the English one.
HELP = {
    "en": "Takes a distilled sampler from",
    "zh": "读取蒸馏采样器",
    "ja": "蒸留サンプラーを読み込みます",
    "fr": "Takes a distilled sampler from",
}


@pytest.fixture(scope="module")
def opened(page_server: ComfyServer) -> Iterator[ComfyPage]:
    with browser_page(page_server) as page:
        yield page


@pytest.fixture
def browser(opened: ComfyPage) -> Iterator[ComfyPage]:
    """The page. Nothing of ours may complain, whatever its language."""
    opened.complaints.clear()
    yield opened
    # Where there is no page of help in the language, ComfyUI asks for it and takes the one without a language then.
    assert [line for line in opened.complaints if not line.endswith("/docs/DODELoad/fr.md")] == []


@pytest.mark.parametrize("language", list(SAID))
def test_nodes_and_panels_speak_the_language(browser: ComfyPage, language: str) -> None:
    browser.name = language
    browser.open(vue=language == "zh", locale=language)
    give_glyphs(browser.page, language)
    said = [(ROOT / "web" / "page" / name).read_text(encoding="utf-8") for name in ("texts.mjs", "reasons.mjs", "problems.mjs")]
    words = "".join(set("".join(said)))
    wait_for_glyphs(browser.page, words)
    pictures(browser)
    title, steps, error = SAID[language]
    assert browser.page.evaluate("() => app.rootGraph.nodes.find((n) => n.comfyClass === 'DODELoad').title") == title
    text = browser.panel(LOAD).inner_text()
    assert steps in text
    assert error in text


@pytest.mark.parametrize("language", list(WRONG))
def test_what_went_wrong_is_said_in_the_language(browser: ComfyPage, language: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes((ROOT / "example_parameters" / EXAMPLE).read_bytes()[:-9])
    browser.open(vue=language == "ja", locale=language)
    browser.build(*loading(file=EXAMPLE, steps=9))
    browser.settle()
    imported, ran, gone = WRONG[language]
    panel = browser.panel(LOAD)
    places = "[...panel.querySelectorAll('[role=status], [role=alert]')]"
    said = f"([panel, words]) => {places}.some((place) => place.textContent.startsWith(words))"
    with browser.expected_refusal():
        panel.query_selector("input[type=file]").set_input_files(broken)
        browser.page.wait_for_function(said, arg=[panel, imported])
    browser.run()
    browser.page.wait_for_function(said, arg=[panel, ran])
    with browser.expected_refusal(404):
        assert browser.page.evaluate(RENAME, "gone.safetensors") == gone


@pytest.mark.parametrize("language", list(HELP))
def test_the_page_shows_a_nodes_help_in_its_language(browser: ComfyPage, language: str) -> None:
    browser.open(vue=False, locale=language)
    browser.build(*loading(file=EXAMPLE))
    if language in CARRIERS:
        give_glyphs(browser.page, language)
    browser.look(LOAD, 0.7)
    browser.page.evaluate("() => app.canvas.selectNode(app.rootGraph.nodes.find((n) => n.comfyClass === 'DODELoad'))")
    browser.page.locator("[data-testid=info-button]").click()
    browser.page.get_by_text(HELP[language]).wait_for()
    wait_for_glyphs(browser.page, browser.page.inner_text("body"))
    browser.shoot(f"help-{language}")
