"""Imports run one way: in each package from each room down to lower ones, and from the hosts' layers into ``dode``."""

import ast

import pytest

from tests import floors

HOSTS = ("comfy", "nodes", "folder_paths", "server", "modules", "modules_forge", "gradio", "webui")


@pytest.mark.parametrize("package", floors.FLOORS)
def test_every_room_has_its_floor(package: str) -> None:
    rooms = {floors.room(name) for name in floors.modules(package)}
    assert rooms == {name for names in floors.FLOORS[package] for name in names}


@pytest.mark.parametrize(
    ("package", "fewest", "wrong"),
    [
        ("dode", 20, [("files", "fit"), ("methods", "correction")]),
        ("nodes", 20, [("host", "page")]),
        ("webui", 20, [("host", "sampler")]),
        ("benchmarks", 5, [("models", "quality")]),
    ],
)
def test_imports_between_rooms_go_down(package: str, fewest: int, wrong: list[tuple[str, str]]) -> None:
    found = floors.arrows(package)
    assert len(found) > fewest
    assert floors.upward(package, found) == []
    assert floors.upward(package, {*found, *wrong}) == wrong


@pytest.mark.parametrize("package", floors.FLOORS)
def test_no_modules_import_each_other(package: str) -> None:
    assert floors.cycles(package) == []


def test_the_host_s_layer_does_not_use_the_command_line() -> None:
    found: set[str] = set()
    for path in floors.modules("nodes").values():
        used = list(floors.imported(path))
        found |= set(used)
        assert not [name for name in used if floors.room(name) == "cli"], path
    assert len(found) > 10


def test_what_computes_knows_no_host() -> None:
    for path in floors.modules().values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.partition(".")[0] in HOSTS], path


def test_the_hosts_layers_do_not_know_each_other_nor_the_repository_s_tools() -> None:
    known = {"nodes": ("webui", "scripts", "modules"), "webui": ("nodes", "tests", "benchmarks", "scripts", "comfy", "install")}
    for package, others in known.items():
        for path in floors.modules(package).values():
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
                assert not [name for name in names if name.partition(".")[0] in others], path
