"""The example workflows run right after install."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.comfy.server import ROOT, ComfyServer
from tests.comfy.workflow import to_api

FOLDER = ROOT / "example_workflows"
EXAMPLES = sorted(path.stem for path in FOLDER.glob("*.json"))
WANTED = ["1 Quick start", "2 Distill on your checkpoint", "3 Use a shared file", "4 KSampler alone", "5 Compare"]


def read(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def test_each_has_a_picture() -> None:
    assert EXAMPLES == WANTED, "titles, in the order in which to read them"
    for name in EXAMPLES:
        with Image.open(FOLDER / f"{name}.jpg") as picture:
            assert picture.size == (512, 512), f"{name}: python -m tests.page"


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_runs(comfy: ComfyServer, name: str) -> None:
    """As shipped, but for fewer prompts and samples, to take less time; `python -m tests.page` runs all as they are."""
    workflow, info = read(name), comfy.get("/object_info")
    prompt = to_api(workflow, info)
    for node in prompt.values():
        if node["class_type"] == "DODEDistillSampler":
            node["inputs"]["samples"] = 4
        elif node["class_type"] == "DODEPromptSet":
            node["inputs"]["prompts"] = "\n".join(node["inputs"]["prompts"].splitlines()[:4])
    run = comfy.run(prompt)
    assert run.status == "success", run.error
    pictures = [picture for output in run.outputs.values() for picture in output.get("images", [])]
    columns = [c for output in run.outputs.values() for shown in output.get("dode", []) for c in shown.get("columns", [])]
    pictures += [picture for column in columns for picture in column["pictures"]]
    assert pictures
    for picture in pictures:
        with Image.open(comfy.base / picture["type"] / picture["subfolder"] / picture["filename"]) as shown:
            assert len(set(shown.convert("L").resize((16, 16)).tobytes())) > 8, "an even picture shows nothing"
    if name == "4 KSampler alone":
        assert "KSampler uses demo_model_6_steps.safetensors" in comfy.log()


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_is_written_as_the_page_writes_it(comfy: ComfyServer, name: str) -> None:
    """Every socket is one that the node has, in its order, and every link is known on both of its ends."""
    workflow, info = read(name), comfy.get("/object_info")
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for number, source, output, target, slot, kind in workflow["links"]:
        assert number in nodes[source]["outputs"][output]["links"]
        assert nodes[target]["inputs"][slot]["link"] == number
        assert nodes[source]["outputs"][output]["type"] == kind
    for node in nodes.values():
        if node["type"] in info:
            assert [output["type"] for output in node["outputs"]] == info[node["type"]]["output"]
            declared = [label for group in info[node["type"]]["input_order"].values() for label in group]
            names = [socket["name"] for socket in node["inputs"]]
            assert names == [label for label in declared if label in names]
    assert not [path for path in Path(FOLDER).iterdir() if path.suffix not in (".json", ".jpg")]
