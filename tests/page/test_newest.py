"""What a page asks of us when it is opened, and opened again; and what newer pages of the host warn of."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.comfy.server import ROOT, ComfyServer
from tests.page.conftest import LOOKS, NEWEST_LOOKS
from tests.page.graphs import EXAMPLE, INSPECT, loading
from tests.page.page import ComfyPage, browser_page

DEPRECATED = re.compile(r"\binput\.link\b|\.links\[|\.links\?\.\[")  # node.getInputLink(slot) and graph.getLink(id) instead
looks = (LOOKS[0], NEWEST_LOOKS[1])


@pytest.mark.parametrize("file", sorted((ROOT / "web").rglob("*.*js")), ids=lambda file: file.name)
def test_no_deprecated_names(file: Path) -> None:
    assert not DEPRECATED.findall(file.read_text(encoding="utf-8"))


# The first message comes as soon as the page listens, as after a reload in the middle of a fit.
_AT_ONCE = """(() => {
  const message = JSON.stringify({ type: "dode.progress", data: { node: "1", workflow: null, stage: "teacher" } });
  const Plain = WebSocket;
  window.WebSocket = class extends Plain {
    constructor(...all) {
      super(...all);
      this.addEventListener("open", () => this.dispatchEvent(new MessageEvent("message", { data: message })));
    }
  };
})()"""


@pytest.fixture(params=["page_server", "newest_server"])
def early(request: pytest.FixtureRequest) -> Iterator[ComfyPage]:
    server: ComfyServer = request.getfixturevalue(request.param)
    with browser_page(server) as page:
        page.page.add_init_script(_AT_ONCE)
        yield page


def test_news_of_a_fit_that_come_before_the_page_is_set_up_are_known_to_it(early: ComfyPage) -> None:
    early.open(vue=False)
    assert early.complaints == []


def test_a_result_is_there_after_a_reload_but_not_in_another_copy_of_the_workflow(tab: ComfyPage) -> None:
    tab.build(*loading(file=EXAMPLE))
    template = tab.page.evaluate("() => app.rootGraph.serialize()")
    tab.run()
    assert "held out" in tab.panel(INSPECT).inner_text()
    tab.load(template)  # as from the list of templates: the copy has the same id, and the same nodes
    assert tab.page.evaluate("() => app.rootGraph.id") == template["id"]
    tab.settle()
    assert "Run the workflow to see" in tab.panel(INSPECT).inner_text()

    tab.run()
    run = tab.page.evaluate("() => app.rootGraph.nodes.find((n) => n.comfyClass === 'DODEInspect').properties.dode_run")
    tab.reload(run)
    tab.page.wait_for_function("() => document.querySelectorAll('.dode-headline').length === 2")
    assert "held out" in tab.panel(INSPECT).inner_text()
