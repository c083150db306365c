"""The package as a wheel, in environments that hold nothing else.

    python -m tests.wheel --torch 2.1.2 --numpy 1.24.0

builds it, installs it with these versions of torch and NumPy from wherever pip is set up to look, and runs ``CHECK`` there. The
tests do the same with the torch that is here, which is large, linked into the environment instead of installed anew.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("dode", "pyproject.toml", "README.md", "LICENSE")
# What a user of the package does first, away from the checkout.
CHECK = """
import importlib.resources, pathlib, subprocess, sys, sysconfig
import torch, numpy, dode
assert (importlib.resources.files("dode") / "py.typed").is_file()
assert "site-packages" in dode.__file__, dode.__file__
script = next(pathlib.Path(sysconfig.get_path("scripts")).glob("dode*"))
for arguments in (
    "distill mine.safetensors --evaluations 2 --samples 4 --guidance 3",
    "info mine.safetensors",
    "sample latents.safetensors --parameters mine.safetensors --evaluations 2 --guidance 3 --count 2",
    "methods",
):
    done = subprocess.run([script, *arguments.split()], capture_output=True, text=True)
    assert done.returncode == 0, (arguments, done.stdout, done.stderr)
print(torch.__version__, numpy.__version__, dode.load_parameters("mine.safetensors").entries[0].report.ratio)
"""


class WheelError(Exception):
    """A step failed; the message is what it printed."""


def build(folder: Path) -> Path:
    """The wheel, built from a copy of the sources in this folder."""
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source)
    command = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder / "dist"), str(source)]
    _run(sys.executable, "-m", "pip", "--disable-pip-version-check", *command)
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


def environment(folder: Path) -> Path:
    """A new environment with pip and nothing else; returns its Python."""
    venv.EnvBuilder(with_pip=True).create(folder)
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def link(python: Path, name: str) -> None:
    """Put an installed distribution and all that it requires, as it lies here, into an environment; pip finds it there."""
    place = Path(_run(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    for each in _with_requirements(name, set()):
        found = distribution(each)
        tops = {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "__pycache__")}
        for top in tops:
            if not (place / top).exists():
                (place / top).symlink_to(Path(str(found.locate_file(top))))


def _with_requirements(name: str, seen: set[str]) -> Iterator[str]:
    if name in seen:
        return
    seen.add(name)
    try:
        needed = distribution(name).requires or []
    except PackageNotFoundError:  # for another platform
        return
    yield name
    for text in needed:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield from _with_requirements(re.sub(r"[-_.]+", "-", requirement.name).lower(), seen)


def install(python: Path, wheel: Path, *pins: str) -> None:
    """Install a wheel with these versions, and see that what is there fits together."""
    _run(str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", str(wheel), *pins)
    _run(str(python), "-m", "pip", "--disable-pip-version-check", "check")


def check(python: Path, folder: Path) -> str:
    """Use the package as installed, in an empty folder; returns what ``CHECK`` printed."""
    folder.mkdir()
    return _run(str(python), "-I", "-c", CHECK, cwd=folder)


def _run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise WheelError(f"{' '.join(command)[:300]}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", required=True, help="version to install")
    parser.add_argument("--numpy", required=True, help="version to install")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python = environment(folder / "environment")
        install(python, build(folder), f"torch=={options.torch}", f"numpy=={options.numpy}")
        print(check(python, folder / "empty"), end="")


if __name__ == "__main__":
    main()
