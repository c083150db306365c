"""What the nodes show: while a fit runs, after it, of a file, of a comparison; in both renderers, dark and light."""

import json
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

import dode
from tests.comfy.server import ROOT
from tests.page.checks import fits
from tests.page.conftest import Look
from tests.page.graphs import COMPARE, DISTILL, EXAMPLE, INSPECT, LOAD, comparing, distilling, loading, stopping
from tests.page.page import ComfyPage


def test_a_fit_shows_its_stages_and_then_what_it_made(tab: ComfyPage, look: Look) -> None:
    nodes, links = distilling(mode="paper", solver="euler", save_as=f"page/{look.name}")
    tab.build(nodes, links)
    tab.look(DISTILL)
    tab.queue()
    tab.wait_points(3)
    tab.shoot(f"running-{look.name}")
    tab.wait_done()
    seen = tab.progress()
    parts = [state["part"] for state in seen]
    assert parts == sorted(parts)
    assert parts[0] < 50 < parts[-1]
    assert seen[0]["stage"] == "Teacher"
    assert {"Check", "Comparison"} <= {state["stage"] for state in seen}
    assert any(re.search(r"about \d+ (s|min) left", state["left"]) for state in seen)
    assert all(re.search(r"in all as long as about \d+ pictures of 20 steps$", state["left"]) for state in seen)
    assert not any(state["stop"] for state in seen), "the paper's fit has nothing to keep before it ends"
    assert max(len(state["rows"]) for state in seen) == 5, "a point for each of the steps"
    assert tab.previews() > 0

    panel = tab.panel(DISTILL)
    text = panel.inner_text()
    assert re.search(r"5 steps now come closer to the reference than \d+ steps of dpmpp_2m|No gain here: dpmpp_2m", text)
    assert re.search(r"Error on 6 held-out samples: 0\.\d+ before, 0\.\d+ after \(−\d+\s%\)", text)
    path = tab.server.base / "output" / "dode" / "page" / f"{look.name}.safetensors"
    assert str(path) in text
    (entry,) = dode.load_parameters(path).entries
    rows = panel.eval_on_selector_all("tbody tr", "(rows) => rows.map((row) => [...row.cells].map((c) => c.textContent))")
    assert [row[0] for row in rows] == ["1", "2", "3", "4", "5"]
    assert all(float(after) <= 1.05 * float(before) for _, before, after in rows)
    panel.query_selector("button[role=radio]:has-text('λ')").click()
    assert panel.query_selector("figcaption").inner_text().startswith("Learned correction λ")
    cells = panel.eval_on_selector_all("tbody td", "(cells) => cells.map((cell) => Number(cell.textContent))")
    assert cells == pytest.approx(entry.parameters.values.ravel().tolist(), rel=2e-3, abs=1e-6)
    panel.query_selector("button[role=radio]:has-text('Error')").click()
    fits(tab, DISTILL)

    saved = tab.page.evaluate("() => app.rootGraph.serialize()")
    (node,) = [node for node in saved["nodes"] if node["type"] == DISTILL]
    assert node["properties"]["dode_file"] == f"page/{look.name}.safetensors"
    assert str(tab.server.base) not in json.dumps(saved), "no paths of this machine"
    assert "steps_before" not in json.dumps(saved), "no results"
    own = [name for name in tab.widgets(DISTILL) if not name.startswith("$$")]  # the host's preview is one, too
    assert len(node["widgets_values"]) == len(own) - 1, "the panel has no value"

    tab.reload(f"page/{look.name}.safetensors")
    tab.page.wait_for_function("() => document.querySelector('.dode-headline')")
    assert tab.panel(DISTILL).inner_text() == text


def test_a_refined_fit_shows_its_stages_and_channels(tab: ComfyPage, look: Look) -> None:
    tab.build(*distilling(mode="balanced", solver="euler", steps=3, samples=4, save_as="", seed=int(look.vue)))
    tab.look(DISTILL)
    tab.queue()
    tab.wait_points(1)
    tab.shoot(f"refining-{look.name}")
    tab.wait_done()
    seen = tab.progress()
    assert seen[0]["stages"] == ["Teacher", "Search", "Refinement", "Check", "Comparison"]
    for state in seen:
        assert set(state["done"]) <= set(state["stages"][: state["stages"].index(state["stage"])]), "nothing later is done"
    longest = max((state["rows"] for state in seen), key=len)
    assert longest[0].startswith("0"), "the best undistilled start"
    panel = tab.panel(DISTILL)
    text = panel.inner_text()
    assert "Not saved" in text
    assert re.search(r"3 steps now come closer to the reference than \d+ steps of dpmpp_2m|No gain here: dpmpp_2m", text)
    assert panel.query_selector("figcaption").inner_text().startswith("Distance to the reference at the end")
    (row,) = panel.eval_on_selector_all("tbody tr", "(rows) => rows.map((row) => [...row.cells].map((c) => c.textContent))")
    before, after = re.findall(r"Error on 1 held-out samples: ([\d.]+) before, ([\d.]+) after", text)[0]
    assert row == ["3", before, after]
    tab.look(DISTILL)
    tab.shoot(f"refined-error-{look.name}")
    for name, title in (("γ", "Learned change of guidance"), ("σ", "Noise levels")):
        panel.query_selector(f"button[role=radio]:has-text('{name}')").click()
        assert panel.query_selector("figcaption").inner_text().startswith(title)
        tab.shoot(f"refined-{'gamma' if name == 'γ' else 'sigma'}-{look.name}")


def test_a_fit_is_stopped_and_kept_by_the_keyboard(tab: ComfyPage, look: Look) -> None:
    tab.build(*stopping("refine", also_cfg="3", save_as=f"stopped/{look.name}"))
    tab.look(DISTILL)
    tab.queue()
    button = tab.page.wait_for_selector(".dode-stop:not([hidden])")
    assert button is not None
    assert tab.progress()[0]["stop"] is None, "there was nothing to keep yet"
    assert button.inner_text() == "Stop and keep"
    tab.look(DISTILL)
    tab.shoot(f"stop-{look.name}")
    button.focus()
    with tab.page.expect_response(lambda response: "/dode/stop" in response.url) as answer:
        tab.page.keyboard.press("Enter")
    assert (answer.value.status, answer.value.request.method) == (200, "POST")
    tab.wait_done()
    assert "Stopping …" in [state["stop"] for state in tab.progress()]
    text = tab.panel(DISTILL).inner_text()
    assert "Stopped early: the best found so far was kept. Missing: 3 steps at guidance 3." in text
    assert len(dode.load_parameters(tab.server.base / "output" / "dode" / "stopped" / f"{look.name}.safetensors").entries) == 1
    fits(tab, DISTILL)


STOPPABLE = """() => {
  const node = app.rootGraph.nodes.find((n) => n.comfyClass === "DODEDistillSampler");
  const stages = [{ name: "teacher", done: 5, planned: 5 }, { name: "refine", done: 1, planned: 9 }];
  const counts = { done: 5, total: 9, pictures: 75, seconds_left: 300, can_stop: true, stopping: false, errors: [] };
  const detail = { node: String(node.id), workflow: null, stage: "refine", stages, ...counts };
  app.api.dispatchEvent(new CustomEvent("dode.progress", { detail }));
}"""


def test_what_cannot_be_stopped_any_more_is_said(tab: ComfyPage, look: Look) -> None:
    tab.build({"distill": (DISTILL, {})}, [])
    tab.page.evaluate(STOPPABLE)
    tab.look(DISTILL)
    assert "about 5 min left · in all as long as about 75 pictures of 20 steps" in tab.panel(DISTILL).inner_text()
    fits(tab, DISTILL)
    button = tab.page.locator(".dode-stop")
    with tab.expected_refusal(404):
        button.click()
        tab.page.get_by_text("perhaps it has just ended").wait_for()
    assert button.inner_text() == "Stop and keep"
    assert button.get_attribute("aria-disabled") == "false"
    tab.shoot(f"cannot-stop-{look.name}")


def test_load_shows_the_file_before_anything_runs(tab: ComfyPage, look: Look) -> None:
    tab.build(*loading(file=EXAMPLE))
    tab.look(LOAD)
    tab.page.wait_for_selector(".dode-facts")
    text = tab.panel(LOAD).inner_text()
    for words in ("embedded", "edm", "3 channels", "euler", "6 steps", "guidance 3", "The D-ODE authors", "Apache-2.0"):
        assert words in text
    assert re.search(r"Error on 16 held-out samples: 0\.147 before, 0\.111 after \(−24\s%\)", text)
    tab.page.wait_for_selector(".dode-plot canvas")
    fits(tab, LOAD)

    # Keyboard and screen reader: the chart says what it is, its kinds are a radio group, its numbers a table.
    panel = tab.panel(LOAD)
    assert panel.query_selector("[role=img]").get_attribute("aria-label").startswith("Distance to the reference")
    panel.query_selector("[role=radio][aria-checked=true]").focus()
    tab.page.keyboard.press("ArrowRight")
    assert panel.query_selector("figcaption").inner_text().startswith("Learned correction")
    assert tab.page.evaluate("() => document.activeElement.getAttribute('aria-checked')") == "true"
    panel.query_selector("summary").focus()
    tab.page.keyboard.press("Enter")
    assert panel.query_selector("table").is_visible()
    tab.look(LOAD)
    tab.shoot(f"numbers-{look.name}")

    tab.run()
    assert "may fit less well" not in tab.panel(LOAD).inner_text().lower()
    tab.look(INSPECT)
    tab.shoot(f"inspect-{look.name}")
    assert "−24\xa0%" in tab.panel(INSPECT).inner_text()


def other_checkpoint(library: Path) -> str:
    """The example file, said to be made on another checkpoint of the same kind."""
    content = dode.load_parameters(ROOT / "example_parameters" / EXAMPLE)
    model = replace(content.entries[0].model, name="another.safetensors")
    entries = (replace(content.entries[0], model=model),)
    dode.save_parameters(library / "another.safetensors", replace(content, entries=entries), overwrite=True)
    return "another.safetensors"


def test_a_file_that_does_not_fit_is_said_to(tab: ComfyPage, look: Look, library: Path) -> None:
    tab.build(*loading(file=other_checkpoint(library)))
    tab.run()
    tab.look(LOAD)
    assert "⚠ May fit less well: fitted on 'another.safetensors', this is 'embedded'" in tab.panel(LOAD).inner_text()
    tab.shoot(f"soft-{look.name}")
    tab.build(*loading("flow", file=EXAMPLE))
    tab.run()
    tab.page.keyboard.press("Escape")
    tab.look(LOAD)
    assert "is for another kind of model: fitted for the architecture" in tab.panel(LOAD).inner_text()
    tab.shoot(f"hard-{look.name}")


DROP = """({kind, name, bytes}) => {
  const node = app.rootGraph.nodes.find((n) => n.comfyClass === kind), { canvas, ds } = app.canvas;
  const area = canvas.getBoundingClientRect();
  const at = (i, by) => area[i ? "top" : "left"] + (node.pos[i] + ds.offset[i] + by) * ds.scale;
  const transfer = new DataTransfer();
  transfer.items.add(new File([new Uint8Array(bytes)], name));
  const x = at(0, 60), y = at(1, 12);
  const target = document.elementFromPoint(x, y);
  const event = { bubbles: true, cancelable: true, composed: true, clientX: x, clientY: y, dataTransfer: transfer };
  for (const type of ["dragenter", "dragover", "drop"]) target.dispatchEvent(new DragEvent(type, event));
}"""


def test_files_come_in_by_drop_and_by_upload_and_go_out(tab: ComfyPage, look: Look, library: Path, tmp_path: Path) -> None:
    shared = tmp_path / f"from_a_friend_{look.name}.safetensors"
    dode.save_parameters(shared, dode.load_parameters(ROOT / "example_parameters" / EXAMPLE))
    tab.build(*loading(file=EXAMPLE))
    tab.look(LOAD)
    tab.page.evaluate(DROP, {"kind": LOAD, "name": shared.name, "bytes": list(shared.read_bytes())})
    tab.page.wait_for_function("() => document.querySelector('.dode-inner [role=status]')?.textContent.startsWith('Imported')")
    content = asdict(dode.load_parameters(shared))
    assert repr(asdict(dode.load_parameters(library / shared.name))) == repr(content)
    assert tab.widgets(LOAD)["file"] == shared.name

    def choose(path: Path, words: str) -> None:
        tab.look(LOAD, 0.7)  # so that all of it is in the view
        with tab.page.expect_file_chooser() as chooser:
            tab.panel(LOAD).query_selector("button:has-text('Import')").click()
        chooser.value.set_files(path)
        tab.page.wait_for_function(
            "(words) => document.querySelector('.dode-inner [role=status]')?.textContent.includes(words)", arg=words
        )

    before = (library / shared.name).stat().st_mtime_ns
    choose(shared, f"{shared.stem}_00002.safetensors")  # never over another
    assert (library / shared.name).stat().st_mtime_ns == before
    tab.shoot(f"imported-{look.name}")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(shared.read_bytes()[:-9])
    with tab.expected_refusal():
        choose(broken, "broken.safetensors was not imported")
    assert not (library / broken.name).exists()

    tab.look(LOAD, 0.7)
    tab.page.wait_for_selector("a.dode-button")
    with tab.page.expect_download() as download:
        tab.panel(LOAD).query_selector("a.dode-button").click()
    assert download.value.suggested_filename == f"{shared.stem}_00002.safetensors"
    assert repr(asdict(dode.load_parameters(copy_of(download.value.path(), tmp_path)))) == repr(content)


def copy_of(path: str | Path, folder: Path) -> Path:
    """A download, under a name that the reader takes."""
    return Path(shutil.copy(path, folder / "download.safetensors"))


def test_compare_divides_flickers_and_lies_side_by_side(tab: ComfyPage, look: Look) -> None:
    tab.build(*comparing())
    tab.run()
    tab.look(COMPARE)
    panel = tab.panel(COMPARE)

    def errors() -> dict[str, float]:
        found = re.findall(r"(base|distilled) \(euler\)\s+6 evaluations\s+error ([\d.]+)", panel.inner_text())
        return {name: float(error) for name, error in found}

    assert set(errors()) == {"base", "distilled"}
    assert errors()["distilled"] < errors()["base"]
    images: Any = panel.query_selector_all("img")
    tab.page.wait_for_function("() => [...document.querySelectorAll('.dode-stage img')].every((i) => i.naturalWidth === 16)")
    assert len({image.get_attribute("src") for image in images}) == 2
    slider = panel.query_selector("input[type=range]")
    slider.focus()
    for _ in range(20):
        tab.page.keyboard.press("ArrowRight")
    assert panel.query_selector(".dode-stage").evaluate("(stage) => stage.style.getPropertyValue('--part')") == "70%"
    fits(tab, COMPARE)
    panel.query_selector("button:has-text('›')").click()
    assert "Picture 2 of 2" in panel.inner_text()
    panel.query_selector("button:has-text('Side by side')").click()
    assert len(panel.query_selector_all("img")) == 3
    assert "reference (heun)" in panel.inner_text()
    tab.look(COMPARE)
    tab.shoot(f"beside-{look.name}")
    panel.query_selector("button:has-text('Flicker')").click()
    tab.page.wait_for_function("() => document.querySelector('.dode-stage.dode-first')")
    tab.page.wait_for_function("() => document.querySelector('.dode-stage:not(.dode-first)')")
    panel.query_selector("button:has-text('Pause')").click()
    assert "Go on" in panel.inner_text()


def test_the_properties_panel_leaves_the_nodes_panels_as_they_are(tab: ComfyPage) -> None:
    tab.build(*loading(file=EXAMPLE))
    tab.look(LOAD)
    width = "(outer) => outer.clientWidth"
    before = tab.panel(LOAD).evaluate(width)
    tab.page.evaluate("(kind) => app.canvas.selectNode(app.rootGraph.nodes.find((n) => n.comfyClass === kind))", LOAD)
    parameters = tab.page.get_by_role("tab", name="Parameters")
    if not parameters.is_visible():
        tab.page.get_by_label("Toggle properties panel").click()
    parameters.click()
    tab.page.get_by_text(re.compile(r"^\s*inputs\s*$", re.IGNORECASE)).first.wait_for()  # those of the node
    tab.settle()
    assert not tab.page.get_by_text("dode_card").count()
    tab.look(LOAD)  # draws it anew
    assert tab.panel(LOAD).evaluate(width) == before
    tab.shoot(f"properties-{tab.name}")


AGAIN = """(rows) => {
  const node = app.rootGraph.nodes.find((n) => n.comfyClass === "DODEDistillSampler");
  const errors = rows.map((number, i) => ({ stage: "refine", number, before: 0.2, after: 0.2 / (i + 2) }));
  const stages = [{ name: "teacher", done: 5, planned: 5 }, { name: "refine", done: rows.length, planned: 9 }];
  const detail = { node: String(node.id), workflow: null, stage: "refine", stages, done: 5, total: 9, seconds_left: 3, errors };
  app.api.dispatchEvent(new CustomEvent("dode.progress", { detail }));
}"""


def test_the_curve_is_that_of_the_newest_fit(tab: ComfyPage, look: Look) -> None:
    """Short fits from several starts come before the one that counts, and each begins with 0 again."""
    tab.build({"distill": (DISTILL, {})}, [])
    for numbers, shown in (([0], 1), ([0, 1, 2, 3], 4), ([0], 1), ([0, 1], 2), ([0, 1, 2, 0, 1, 2, 0, 1, 2, 3, 4], 5)):
        tab.page.evaluate(AGAIN, numbers)
        assert tab.panel(DISTILL).eval_on_selector_all("tbody tr", "(rows) => rows.length") == shown
    tab.look(DISTILL)
    tab.page.wait_for_selector(".dode-plot canvas")
    tab.shoot(f"again-{look.name}")


DRAW = """async (ends) => {
  const { errorChart } = await import("/extensions/d-ode/page/charts.mjs");
  const box = document.createElement("div");
  box.className = "dode-panel";
  box.style.width = "320px";
  document.body.append(box);
  const { prototype } = CanvasRenderingContext2D, write = prototype.fillText;
  let written;
  prototype.fillText = function (text) {
    if (box.contains(this.canvas)) written.add(text);
    return write.apply(this, arguments);
  };
  for (const [start, end] of ends) {
    written = new Set();
    const values = [start, end];
    const shown = { title: "t", rowName: "r", numbers: [101, 102], before: values, after: values, names: ["a", "b"] };
    box.replaceChildren(errorChart(shown));
    for (let i = 0; i < 1000 && !box.querySelector("canvas"); i++) await new Promise((done) => setTimeout(done, 20));
    if (!box.querySelector("canvas")) throw new Error(`nothing is drawn for ${start}`);
    written.delete("101"), written.delete("102"); // the numbers of the steps
    if (written.size < 2 || written.size > 8) throw new Error(`the axis from ${start} to ${end} has ${[...written]}`);
  }
  prototype.fillText = write;
  box.remove();
}"""


def test_errors_of_any_size_are_drawn_with_some_numbers_on_the_axis(tab: ComfyPage) -> None:
    """Among them those whose axis ends just below a power of ten."""
    starts = [1e-6, 0.0153, 0.1, 0.1535, 0.155, 0.158, 0.31, 1.56, 1.62, 4.8, 99.0, 1.5e4]
    tab.page.evaluate(DRAW, [[start, factor * start] for start in starts for factor in (1, 1.3, 30, 1e4, 1e9)])
