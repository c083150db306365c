"""Who imports whom in ``dode``, ``nodes``, ``webui`` and ``benchmarks``: a module imports from lower floors, and a folder's
modules from each other.

    python -m tests.floors

prints how many rooms (modules on a floor of their own, or folders) there are, how many arrows between them, and those that
go up.
"""

import ast
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# From the ground up. What stands on one line may not import from its neighbours.
FLOORS = {
    "dode": (
        ("errors", "version", "host_names"),
        ("tableau", "images"),
        ("coordinate", "schedules"),
        ("methods",),
        ("correction", "flow_start"),
        ("sampling",),
        ("teacher", "kdiffusion", "stepper"),
        ("report",),
        ("files",),
        ("demo", "fit"),
        ("recipe",),
        ("charts",),
        ("cli", "diffusers"),
        ("__init__",),
        ("__main__",),
    ),
    "nodes": (
        ("__init__",),
        ("host",),
        ("library", "fitting", "prompts", "demo_model"),
        ("page",),
        ("sampler", "ksampler"),
        ("distill", "compare", "parameters"),
        ("extension",),
    ),
    "webui": (
        ("__init__",),
        ("host",),
        ("settings", "model_info", "guidance", "progress"),
        ("library",),
        ("choosing",),
        ("sampler",),
        ("register",),
        ("distill",),
        ("panel",),
    ),
    "benchmarks": (
        ("reports", "fit_memory", "overhead", "load", "ranks"),
        ("models",),
        ("peers",),
        ("quality",),
        ("paper",),
    ),
}
Arrows = set[tuple[str, str]]


def modules(package: str = "dode") -> dict[str, Path]:
    """The modules of a package by dotted name, its own as "__init__"."""
    found: dict[str, Path] = {}
    for path in (ROOT / package).rglob("*.py"):
        parts = path.relative_to(ROOT / package).with_suffix("").parts
        found[".".join(parts if parts == ("__init__",) else [part for part in parts if part != "__init__"])] = path
    return found


def imported(path: Path, package: str = "dode") -> Iterator[str]:
    """The modules of a package that a file imports anywhere in it. Names of the package's face are its ``__init__``'s."""
    known = modules(package)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            from_here = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            names = [".".join([*from_here, *filter(None, [node.module]), alias.name]) for alias in node.names]
        for name in names:
            if name == package or name.startswith(f"{package}."):
                parts = name.split(".")[1:]
                while parts and ".".join(parts) not in known:
                    parts.pop()
                yield ".".join(parts) or "__init__"


def room(module: str) -> str:
    """The folder, or the module where it is in none."""
    return module.partition(".")[0]


def arrows(package: str) -> Arrows:
    """Which room imports from which other."""
    known = modules(package)
    pairs = {(room(name), room(other)) for name, path in known.items() for other in imported(path, package)}
    return {(one, other) for one, other in pairs if one != other}


def upward(package: str, found: Arrows) -> list[tuple[str, str]]:
    """The arrows that do not go down."""
    floor = {name: number for number, names in enumerate(FLOORS[package]) for name in names}
    return sorted((one, other) for one, other in found if floor[other] >= floor[one])


def cycles(package: str) -> list[tuple[str, ...]]:
    """Rings of modules that import each other, within a folder too."""
    known = modules(package)
    below = {name: {other for other in imported(path, package) if other != name} for name, path in known.items()}
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
    for package in FLOORS:
        known, found = modules(package), arrows(package)
        rooms = {room(name) for name in known}
        up = upward(package, found)
        print(f"{package}: {len(known)} modules in {len(rooms)} rooms, {len(found)} arrows between rooms, {len(up)} of them up")
        for one, other in up:
            print(f"  up: {one} -> {other}")
        for ring in cycles(package):
            print("  ring: " + ", ".join(f"{a} -> {b}" for a, b in pairwise(ring)))


if __name__ == "__main__":
    main()
