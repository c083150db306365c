"""What docs/security.md says the pack reads, writes and starts, watched; and names that lead elsewhere."""

import ast
import json
import re
import shutil
from pathlib import Path

import pytest

from benchmarks.load import RUNS, queue
from dode.correction import MAX_TAPS
from dode.files import bounded_json, parameter_file
from dode.files import safetensors_container as container
from dode.files.parameter_file import load_parameters
from dode.tableau import MAX_STEPS
from tests.comfy.conftest import PACKS
from tests.comfy.graphs import demo, distill
from tests.comfy.server import ROOT, ComfyServer
from tests.comfy.workflow import Graph, link
from tests.comfyui import comfyui_dir

WRITES = ("output/dode/", "temp/", "models/dode")
FORBIDDEN_MODULES = {
    "ctypes", "ftplib", "http", "importlib.machinery", "marshal", "multiprocessing", "pickle", "requests", "runpy", "shelve",
    "smtplib", "socket", "ssl", "subprocess", "urllib.request", "webbrowser",
}  # fmt: skip
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "system", "popen", "rmtree"}
# Of the command line, which nodes do not import: k-diffusion's checkpoints are read with weights_only.
PICKLED = {"kdiffusion.py"}


def imported(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return names


@pytest.mark.parametrize("path", [p for d in ("nodes", "dode") for p in sorted((ROOT / d).rglob("*.py"))], ids=lambda p: p.name)
def test_the_code_can_do_no_more_than_it_needs(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not {n for n in imported(tree) if n in FORBIDDEN_MODULES or n.split(".")[0] in FORBIDDEN_MODULES}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        plain = isinstance(node.func, ast.Name) or (
            isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == "os"
        )
        assert not (plain and name in FORBIDDEN_CALLS), ast.unparse(node)
        if name == "load" and isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == "torch":
            assert path.name in PICKLED
            assert any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords)


def test_what_the_pack_opens(tmp_path: Path) -> None:
    """All nodes once, watched: files are written in three folders, nothing is connected, started or unpickled."""
    server = ComfyServer(comfyui_dir(), tmp_path, [ROOT, PACKS / "dode-test-models", PACKS / "dode-test-audit"])
    try:
        queue(server, len(RUNS))
    finally:
        server.close()
    events = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text(encoding="utf-8").splitlines()]
    others = {(event, where) for event, where, *_ in events} - {(e, w) for e, w, *_ in events if e in _FILES}
    assert not others
    base = str(tmp_path) + "/"
    written = {path for event, _, path, *rest in events if event != "open" or _writes(rest)}
    assert any("output/dode" in path for path in written)
    elsewhere = {path for path in written if not path.removeprefix(base).startswith(WRITES)}
    assert not {path for path in elsewhere if path not in (f"{base}output/dode", f"{base}temp", f"{base}output")}


_FILES = {"open", "os.rename", "os.remove", "os.mkdir", "os.link", "os.chmod"}


def _writes(rest: list[str]) -> bool:
    """Whether an ``open`` event, given as path, mode and flags, is for writing."""
    mode, flags = rest[0], int(rest[1])
    return any(letter in mode for letter in "wax+") if mode != "None" else bool(flags & 0o3)


ELSEWHERE = [
    "../../secret.safetensors", "..\\..\\secret.safetensors", "/{base}/secret.safetensors", "%2e%2e/%2e%2e/secret.safetensors",
    "../dode/../../secret.safetensors", "secret.safetensors\u0000.txt", "\\\\server\\share\\secret.safetensors", "link/secret",
]  # fmt: skip


@pytest.fixture(scope="module")
def inside(comfy: ComfyServer) -> Path:
    graph = Graph()
    distill(graph, demo(graph), save_as="inside", seed=3)
    assert comfy.run(graph.prompt).status == "success"
    return comfy.base / "output" / "dode" / "inside.safetensors"


def test_no_name_writes_through_a_link(comfy: ComfyServer, inside: Path) -> None:
    elsewhere = comfy.base / "elsewhere"
    elsewhere.mkdir()
    (inside.parent / "link").symlink_to(elsewhere, target_is_directory=True)
    graph = Graph()
    loaded = graph.add("DODELoad", file="inside.safetensors", steps=0)
    graph.add("DODESave", parameters=link(loaded), name="link/out", author="", licence="", notes="")
    run = comfy.run(graph.prompt)
    (inside.parent / "link").unlink()
    assert run.status == "error"
    assert "no name for a parameter file" in run.error
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("name", ELSEWHERE)
def test_no_name_reads_a_file_elsewhere(comfy: ComfyServer, inside: Path, name: str) -> None:
    shutil.copy(inside, comfy.base / "secret.safetensors")
    assert load_parameters(comfy.base / "secret.safetensors").entries
    graph = Graph()
    loaded = graph.add("DODELoad", file=name.replace("{base}", str(comfy.base).lstrip("/")), steps=0)
    graph.add("DODEInspect", parameters=link(loaded))
    run = comfy.run(graph.prompt)
    assert run.status in ("refused", "error")
    assert not run.outputs
    assert "There is no parameter file" in run.error or "could not be read" in run.error


def test_the_page_states_the_limits_of_the_code() -> None:
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    size, header = (f"{n >> 20} MiB" for n in (container.MAX_FILE_BYTES, container.MAX_HEADER_BYTES))
    lines = [
        f"| size; header | {size}; {header} |",
        f"| entries; rows in all | {parameter_file.MAX_ENTRIES}; {parameter_file.MAX_ROWS} |",
        f"| {bounded_json.MAX_DEPTH}; {bounded_json.MAX_TOKENS:,}; {bounded_json.MAX_TEXT:,} characters |",
        f"| steps; taps | {MAX_STEPS}; {MAX_TAPS} |",
    ]
    assert [line for line in lines if line not in text] == []
    assert parameter_file.MAX_VALUE == parameter_file.MAX_SIGMA == 1e6
    served: set[tuple[str, str]] = set()
    for path in (ROOT / "nodes").rglob("*.py"):
        code = path.read_text(encoding="utf-8")
        constants = dict(re.findall(r'^([A-Z_]+) = "(/[^"]+)"', code, re.MULTILINE))
        for method, quoted, name in re.findall(r'\broutes\.(\w+)\((?:"([^"]+)"|(\w+))', code):
            served.add((method, quoted or constants[name]))
    assert served == {(method.lower(), path) for method, path in re.findall(r"\| `([A-Z]+) (/dode/\w+)[?`]", text)}
