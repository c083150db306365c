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


def told(text: str) -> tuple[float, float, float]:
    """What a panel says: the error undistilled and distilled, and by how many percent it is less."""
    (errors,) = re.findall(r"held out: ([\d.]+) undistilled, ([\d.]+) distilled", text)
    (gain,) = re.findall(r"now come (\d+) % closer", text) or [0]
    return float(errors[0]), float(errors[1]), float(gain)


def test_a_fit_shows_its_stages_and_then_what_it_made(tab: ComfyPage, look: Look) -> None:
    nodes, links = distilling(mode="paper", solver="euler", save_as=f"page/{look.name}")
    tab.build(nodes, links)
    tab.look(DISTILL)
    tab.queue()
    tab.page.wait_for_selector(".dode-bar")
    tab.shoot(f"running-{look.name}")
    tab.wait_done()
    seen = tab.progress()
    parts = [state["part"] for state in seen]
    assert parts == sorted(parts)
    assert parts[0] < 50 < parts[-1]
    assert seen[0]["stage"] == "Teacher"
    assert {"Check", "Compare"} <= {state["stage"] for state in seen}
    assert any(re.search(r"about \d+ (s|min) left", state["left"]) for state in seen)
    assert all(re.search(r"in all as long as about \d+ pictures of 20 steps$", state["left"]) for state in seen)
    assert not any(state["stop"] for state in seen), "the paper's fit has nothing to keep before it ends"
    assert max(len(state["rows"]) for state in seen) == 2, "the undistilled solver, and what came of it"
    assert any(state["picture"] for state in seen)
    assert tab.previews() == 0, "the last one would stay on the node"

    panel = tab.panel(DISTILL)
    text = panel.inner_text()
    held = "() => [...document.querySelectorAll('.dode-held img')].filter((image) => image.naturalWidth > 0).length === 6"
    tab.page.wait_for_function(held)
    assert re.search(r"It takes more than \d+ steps of dpmpp_2m|But dpmpp_2m, the usual sampler, comes as close", text)
    before, after, gain = told(text)
    assert gain == round(100 * (1 - after / before)) > 0
    assert "5 steps now come" in text
    path = tab.server.base / "output" / "dode" / "page" / f"{look.name}.safetensors"
    assert str(path) in text
    (entry,) = dode.load_parameters(path).entries
    rows = panel.eval_on_selector_all("tbody tr", "(rows) => rows.map((row) => [...row.cells].map((c) => c.textContent))")
    assert [row[0] for row in rows] == ["1", "2", "3", "4", "5"]
    assert all(float(after) <= 1.05 * float(before) for _, before, after in rows)
    panel.query_selector("button[role=radio]:has-text('λ')").click()
    assert panel.query_selector("figcaption").inner_text().startswith("Correction λ")
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
    assert seen[0]["stages"] == ["Teacher", "Search", "Refine", "Check", "Compare", "Pictures"]
    for state in seen:
        assert set(state["done"]) <= set(state["stages"][: state["stages"].index(state["stage"])]), "nothing later is done"
    panel = tab.panel(DISTILL)
    text = panel.inner_text()
    assert "Not saved" in text
    assert re.search(r"It takes more than \d+ steps of dpmpp_2m|But dpmpp_2m, the usual sampler, comes as close", text)
    assert "Error on the one sample that was held out" in text
    (row,) = panel.eval_on_selector_all("tbody tr", "(rows) => rows.map((row) => [...row.cells].map((c) => c.textContent))")
    before, after, gain = told(text)
    assert [float(cell) for cell in row[1:]] == [before, after]
    assert gain == pytest.approx(100 * (1 - after / before), abs=1)
    points = [[float(cell) for cell in row.split("|")] for row in max((state["rows"] for state in seen), key=len)]
    assert points == sorted(points), "evaluations are spent"
    errors = [error for _, error in points]
    assert errors == sorted(errors, reverse=True)
    assert (errors[0], errors[-1]) == (before, after), "the curve goes from the undistilled start to the result"
    tab.look(DISTILL)
    tab.shoot(f"refined-error-{look.name}")
    for name, title in (("Guidance", "Guidance scale"), ("Noise levels", "Noise level"), ("λ", "Correction λ")):
        panel.query_selector(f"button[role=radio]:has-text('{name}')").click()
        assert panel.query_selector("figcaption").inner_text().startswith(title)
        assert len(panel.query_selector(".dode-note").inner_text()) > 30
        tab.shoot(f"refined-{name.partition(' ')[0].lower()}-{look.name}")


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
  const counts = { done: 5, total: 9, pictures: 75, seconds_left: 300, can_stop: true, stopping: false, curve: [] };
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
    for words in ("embedded", "EDM", "3 channels", "euler", "6 steps", "guidance 3", "The D-ODE authors", "Apache-2.0"):
        assert words in text
    assert told(text) == (0.147, 0.111, 24)
    tab.page.wait_for_selector(".dode-plot")
    fits(tab, LOAD)

    # Keyboard and screen reader: the chart says what it is, its kinds are a radio group, its numbers a table.
    panel = tab.panel(LOAD)
    assert panel.query_selector("[role=img]").get_attribute("aria-label").startswith("How far from the teacher")
    panel.query_selector("[role=radio][aria-checked=true]").focus()
    tab.page.keyboard.press("ArrowLeft")  # from the first to the last
    assert panel.query_selector("figcaption").inner_text().startswith("Correction λ")
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
    assert told(tab.panel(INSPECT).inner_text())[2] == 24


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
  if (!target) throw new Error(`the node's title is not in the view: ${x}, ${y}`);
  const event = { bubbles: true, cancelable: true, composed: true, clientX: x, clientY: y, dataTransfer: transfer };
  for (const type of ["dragenter", "dragover", "drop"]) target.dispatchEvent(new DragEvent(type, event));
}"""


def test_files_come_in_by_drop_and_by_upload_and_go_out(tab: ComfyPage, look: Look, library: Path, tmp_path: Path) -> None:
    shared = tmp_path / f"from_a_friend_{look.name}.safetensors"
    dode.save_parameters(shared, dode.load_parameters(ROOT / "example_parameters" / EXAMPLE))
    tab.build(*loading(file=EXAMPLE))
    tab.look(LOAD, top=True)  # its panel grows when the file has been read; what is dropped is dropped below the title
    tab.page.evaluate(DROP, {"kind": LOAD, "name": shared.name, "bytes": list(shared.read_bytes())})
    tab.page.wait_for_function("() => document.querySelector('.dode-inner p[role=status]')?.textContent.startsWith('Imported')")
    content = asdict(dode.load_parameters(shared))
    assert repr(asdict(dode.load_parameters(library / shared.name))) == repr(content)
    assert tab.widgets(LOAD)["file"] == shared.name

    def choose(path: Path, words: str) -> None:
        tab.look(LOAD, 0.7)  # so that all of it is in the view
        with tab.page.expect_file_chooser() as chooser:
            tab.panel(LOAD).query_selector("button:has-text('Import')").click()
        chooser.value.set_files(path)
        tab.page.wait_for_function(
            "(words) => document.querySelector('.dode-inner p[role=status]')?.textContent.includes(words)", arg=words
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
        found = re.findall(r"(undistilled|distilled) \(euler\)\s+6 evaluations\s+error ([\d.]+)", panel.inner_text())
        return {name: float(error) for name, error in found}

    assert set(errors()) == {"undistilled", "distilled"}
    assert errors()["distilled"] < errors()["undistilled"]
    images: Any = panel.query_selector_all("img")
    tab.page.wait_for_function("() => [...document.querySelectorAll('.dode-stage img')].every((i) => i.naturalWidth === 16)")
    assert len({image.get_attribute("src") for image in images}) == 2
    slider = panel.query_selector("input[type=range]")
    slider.focus()
    for _ in range(20):
        tab.page.keyboard.press("ArrowRight")
    assert panel.query_selector(".dode-stage").evaluate("(stage) => stage.style.getPropertyValue('--part')") == "70%"
    fits(tab, COMPARE)
    panel.query_selector("button:has-text('›')").press("Enter")
    assert "Picture 2 of 2" in panel.inner_text()
    panel.query_selector("button:has-text('Side by side')").press("Enter")
    assert len(panel.query_selector_all("img")) == 3
    assert "reference (heun)" in panel.inner_text()
    tab.look(COMPARE)
    tab.shoot(f"beside-{look.name}")
    gone = "() => document.querySelectorAll('.dode-beside img').forEach((i) => (i.src = i.src.replace('filename=', '$&no_')))"
    tab.page.evaluate(gone)
    tab.page.get_by_text("The picture is gone").wait_for()
    tab.complaints.clear()  # the browser's, of the pictures that are not there
    tab.shoot(f"gone-{look.name}")
    panel.query_selector("button:has-text('Flicker')").press("Enter")
    tab.page.wait_for_function("() => document.querySelector('.dode-stage.dode-first')")
    tab.page.wait_for_function("() => document.querySelector('.dode-stage:not(.dode-first)')")
    panel.query_selector("button:has-text('Pause')").press("Enter")
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


AGAIN = """(curve) => {
  const node = app.rootGraph.nodes.find((n) => n.comfyClass === "DODEDistillSampler");
  const stages = [{ name: "teacher", done: 5, planned: 5 }, { name: "refine", done: curve.length, planned: 9 }];
  const detail = { node: String(node.id), workflow: null, stage: "refine", stages, done: 5, total: 9, seconds_left: 3, curve };
  app.api.dispatchEvent(new CustomEvent("dode.progress", { detail }));
}"""


def test_the_curve_goes_on_from_one_sampler_to_the_next(tab: ComfyPage, look: Look) -> None:
    """Several numbers of steps or guidance scales: each sampler has its own start, and the evaluations go on."""
    tab.build({"distill": (DISTILL, {})}, [])
    tab.look(DISTILL)
    curve = [
        {
            "fit": fit,
            "number": number,
            "evaluations": 100 * (4 * fit + number),
            "start": 0.2 / fit,
            "best": 0.2 / fit / (number + 1),
        }
        for fit in (1, 2)
        for number in range(3)
    ]
    for count in (1, 3, 6):
        tab.page.evaluate(AGAIN, curve[:count])
        assert tab.panel(DISTILL).eval_on_selector_all("tbody tr", "(rows) => rows.length") == count
        assert tab.page.locator(".dode-line-of").count() == curve[count - 1]["fit"]
    assert "67 % closer than the undistilled start so far" in tab.panel(DISTILL).inner_text()
    assert tab.page.evaluate("() => [...document.querySelectorAll('.dode-plot text')].map((t) => t.textContent)")[-2:] == [
        "model evaluations spent",
        "RMS distance",
    ]
    tab.look(DISTILL)
    tab.shoot(f"again-{look.name}")


DRAW = """async (ends) => {
  const { drawChart } = await import("/extensions/d-ode/page/charts.mjs");
  for (const [start, end] of ends) {
    const series = [{ key: "start", number: 0, values: [start, end] }];
    const chart = { key: "error", form: "lines", labels: ["101", "102"], series, logarithmic: true, level: null, axis: "" };
    const figure = drawChart(chart, "");
    const written = [...figure.querySelectorAll(".dode-end")].map((text) => text.textContent);
    if (written.length < 1 || written.length > 8) throw new Error(`the axis from ${start} to ${end} has ${written}`);
  }
}"""


def test_errors_of_any_size_are_drawn_with_some_numbers_on_the_axis(tab: ComfyPage) -> None:
    """Among them those whose axis ends just below a power of ten."""
    starts = [1e-6, 0.0153, 0.1, 0.1535, 0.155, 0.158, 0.31, 1.56, 1.62, 4.8, 99.0, 1.5e4]
    tab.page.evaluate(DRAW, [[start, factor * start] for start in starts for factor in (1, 1.3, 30, 1e4, 1e9)])


def test_three_numbers_of_a_step_are_told_apart_without_colours(tab: ComfyPage, look: Look) -> None:
    """Lightness by itself, as in a grey print; and the third is hollow."""
    tab.build(*loading(file=EXAMPLE))
    tab.look(LOAD)
    tab.page.wait_for_selector(".dode-plot")
    lightness = tab.page.evaluate(_LIGHTNESS)
    assert min(abs(a - b) for i, a in enumerate(lightness) for b in lightness[:i]) > 0.08, lightness


_LIGHTNESS = """() => {
  const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  return ["--dode-after", "--dode-tap-2", "--dode-tap-3"].map((name) => {
    const probe = document.querySelector(".dode-panel").appendChild(document.createElement("i"));
    probe.style.color = `var(${name})`;
    context.fillStyle = getComputedStyle(probe).color;
    context.fillRect(0, 0, 1, 1);
    probe.remove();
    const [r, g, b] = context.getImageData(0, 0, 1, 1).data;
    return (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255;
  });
}"""
