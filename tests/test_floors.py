"""Imports run one way: from each room of ``dode`` down to lower ones, and from the hosts' layers into ``dode``."""

import ast

from tests import floors


def test_every_room_has_its_floor() -> None:
    assert {floors.room(name) for name in floors.modules()} == {name for names in floors.FLOORS for name in names}


def test_imports_between_rooms_go_down() -> None:
    found = floors.arrows()
    assert len(found) > 30
    assert floors.upward(found) == []
    assert floors.upward({*found, ("files", "fit"), ("methods", "correction")}) == [("files", "fit"), ("methods", "correction")]


def test_no_modules_import_each_other() -> None:
    assert floors.cycles() == []


def test_the_host_s_layer_does_not_use_the_command_line() -> None:
    known, found = floors.modules(), list[str]()
    for path in (floors.ROOT / "nodes").rglob("*.py"):
        used = list(floors.imported(path, known))
        found += used
        assert not [name for name in used if floors.room(name) == "cli"], path
    assert len(set(found)) > 10


def test_what_computes_knows_no_host() -> None:
    for path in floors.modules().values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.partition(".")[0] in ("comfy", "nodes", "folder_paths", "server")], path
