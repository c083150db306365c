"""Who imports whom in ``dode``, by floors: a module imports from lower ones, and a folder's modules from each other.

    python -m tests.floors

prints how many rooms (modules on a floor of their own, or folders) there are, how many arrows between them, and those that go
up.
"""

import ast
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# From the ground up. What stands on one line may not import from its neighbours.
FLOORS = (
    ("errors", "version"),
    ("tableau", "images"),
    ("coordinate", "schedules"),
    ("methods",),
    ("correction",),
    ("sampling",),
    ("teacher", "kdiffusion"),
    ("report",),
    ("files",),
    ("demo", "fit"),
    ("recipe",),
    ("cli",),
    ("__init__",),
    ("__main__",),
)


def modules() -> dict[str, Path]:
    """The modules of ``dode`` by dotted name, the package itself as "__init__"."""
    found: dict[str, Path] = {}
    for path in (ROOT / "dode").rglob("*.py"):
        parts = path.relative_to(ROOT / "dode").with_suffix("").parts
        found[".".join(parts if parts == ("__init__",) else [part for part in parts if part != "__init__"])] = path
    return found


def imported(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules of ``dode`` that a file imports anywhere in it. Names of the package's face are its ``__init__``'s."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name == "dode" or name.startswith("dode."):
                parts = name.split(".")[1:]
                while parts and ".".join(parts) not in known:
                    parts.pop()
                yield ".".join(parts) or "__init__"


def room(module: str) -> str:
    """The folder, or the module where it is in none."""
    return module.partition(".")[0]


def arrows() -> set[tuple[str, str]]:
    """Which room imports from which other."""
    known = modules()
    pairs = {(room(name), room(other)) for name, path in known.items() for other in imported(path, known)}
    return {(one, other) for one, other in pairs if one != other}


def upward(found: set[tuple[str, str]]) -> list[tuple[str, str]]:
    """The arrows that do not go down."""
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    return sorted((one, other) for one, other in found if floor[other] >= floor[one])


def cycles() -> list[tuple[str, ...]]:
    """Rings of modules that import each other, within a folder too."""
    known = modules()
    below = {name: {other for other in imported(path, known) if other != name} for name, path in known.items()}
    found: list[tuple[str, ...]] = []
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        if name in way:
            found.append((*way[way.index(name) :], name))
        elif name not in done:
            for other in below[name]:
                visit(other, (*way, name))
            done.add(name)

    for name in below:
        visit(name, ())
    return found


def main() -> None:
    found = arrows()
    rooms = {room(name) for name in modules()}
    print(f"{len(modules())} modules in {len(rooms)} rooms, {len(found)} arrows between rooms, {len(upward(found))} of them up")
    for one, other in upward(found):
        print(f"  up: {one} -> {other}")
    for ring in cycles():
        print("  ring: " + ", ".join(f"{a} -> {b}" for a, b in pairwise(ring)))


if __name__ == "__main__":
    main()
