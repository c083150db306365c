"""The example workflows on the page, before and after a run: no node over another, no wire behind one, none backwards."""

import json
from itertools import pairwise
from typing import Any

import pytest

from tests.comfy.test_examples import EXAMPLES, FOLDER
from tests.page.page import ComfyPage

# Where nodes are, with their titles; the wires, as the page draws them: curves that leave and arrive level.
_WHERE = """() => {
  const { nodes } = app.rootGraph, scale = app.canvas.ds.scale;
  const boxes = Object.fromEntries(nodes.map((node) => {
    const shown = document.querySelector(`[data-node-id="${node.id}"]`)?.getBoundingClientRect();
    const [width, height] = shown ? [shown.width / scale, shown.height / scale - 30] : node.size;
    const [left, top] = node.pos;
    return [node.id, { name: node.title, left, top: top - 30, right: left + width, bottom: top + height }];
  }));
  const wires = [...app.rootGraph.links.values()].map((link) => {
    const bends = [];
    for (let id = link.parentId; id !== undefined; id = app.rootGraph.reroutes.get(id).parentId)
      bends.unshift([...app.rootGraph.reroutes.get(id).pos]);
    const start = [...app.rootGraph.getNodeById(link.origin_id).getOutputPos(link.origin_slot)];
    const end = [...app.rootGraph.getNodeById(link.target_id).getInputPos(link.target_slot)];
    return { from: link.origin_id, to: link.target_id, points: [start, ...bends, end] };
  });
  return { boxes, wires };
}"""
_BEND = 80.0  # the host's limit
_EDGE = 4.0  # as little of a wire behind a node's edge is not seen


def curve(start: list[float], end: list[float], bends: tuple[bool, bool]) -> list[tuple[float, float]]:
    """Points of a part of a wire: a cubic curve whose handles are a quarter of its length; at a bend at most ``_BEND``."""
    reach = 0.25 * ((start[0] - end[0]) ** 2 + (start[1] - end[1]) ** 2) ** 0.5
    out, into = (min(reach, _BEND) if bend else reach for bend in bends)
    xs, ys = (start[0], start[0] + out, end[0] - into, end[0]), (start[1], start[1], end[1], end[1])
    found = []
    for t in (i / 60 for i in range(61)):
        weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
        found.append(
            (sum(w * x for w, x in zip(weights, xs, strict=True)), sum(w * y for w, y in zip(weights, ys, strict=True)))
        )
    return found


def inside(point: tuple[float, float], box: dict[str, Any]) -> bool:
    x, y = point
    return box["left"] + _EDGE < x < box["right"] - _EDGE and box["top"] + _EDGE < y < box["bottom"] - _EDGE


def faults(where: dict[str, Any]) -> list[str]:
    boxes, found = where["boxes"], list[str]()
    for one, a in boxes.items():
        for other, b in boxes.items():
            apart = a["right"] <= b["left"] or b["right"] <= a["left"] or a["bottom"] <= b["top"] or b["bottom"] <= a["top"]
            if one < other and not apart:
                found.append(f"{a['name']} and {b['name']} lie over each other")
    for wire in where["wires"]:
        ends = str(wire["from"]), str(wire["to"])
        names = " → ".join(boxes[end]["name"] for end in ends)
        parts = list(pairwise(wire["points"]))
        if any(end[0] <= start[0] for start, end in parts):
            found.append(f"{names} goes backwards")
        bends = [(number > 0, number < len(parts) - 1) for number in range(len(parts))]
        points = [point for part, bend in zip(parts, bends, strict=True) for point in curve(*part, bend)]
        found += [
            f"{names} goes behind {box['name']}"
            for number, box in boxes.items()
            if number not in ends and any(inside(point, box) for point in points)
        ]
    return found


@pytest.mark.parametrize("example", EXAMPLES)
def test_nothing_lies_over_or_behind_anything(tab: ComfyPage, example: str) -> None:
    workflow = json.loads((FOLDER / f"{example}.json").read_text(encoding="utf-8"))
    tab.load(workflow)
    tab.settle()
    assert faults(tab.page.evaluate(_WHERE)) == []
    tab.page.evaluate(
        "() => app.rootGraph.nodes.forEach((n) => n.widgets?.forEach((w) => { if (w.name === 'samples') w.value = 4; "
        "if (w.name === 'prompts') w.value = w.value.split('\\n').slice(0, 4).join('\\n'); }))"
    )
    tab.run()
    assert tab.page.evaluate("() => heard.ended") == "execution_success"
    tab.shoot(f"layout-{example.partition(' ')[0]}-{tab.name}")
    assert faults(tab.page.evaluate(_WHERE)) == []


def test_what_is_wrong_is_found() -> None:
    def box(name: str, left: float, top: float) -> dict[str, Any]:
        return {"name": name, "left": left, "top": top, "right": left + 100.0, "bottom": top + 100.0}

    boxes = {"1": box("a", 0, 0), "2": box("b", 200, 0), "3": box("c", 400, 0), "4": box("d", 50, 50)}
    wires = [
        {"from": 1, "to": 3, "points": [[100, 20], [400, 20]]},
        {"from": 3, "to": 2, "points": [[500, 20], [200, 20]]},
        {"from": 1, "to": 3, "points": [[100, 20], [160, -60], [340, -60], [400, 20]]},
    ]
    found = faults({"boxes": boxes, "wires": wires})
    wanted = ["a and d lie over each other", "a → c goes behind b", "c → b goes backwards"]
    assert [fault for fault in found if not fault.startswith("c → b goes behind")] == wanted
