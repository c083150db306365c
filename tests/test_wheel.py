"""The wheel: what is in it, and that it works alone with the lowest and the highest NumPy that are declared."""

import email
import re
import sys
import zipfile
from pathlib import Path

import pytest

from tests import wheel as wheels

ROOT = wheels.ROOT
# NumPy's first version for a Python, where that is higher than the lowest that is declared.
_FIRST = {(3, 12): "1.26.0", (3, 13): "2.1.0", (3, 14): "2.3.2"}


def declared(name: str) -> str:
    """The lowest version of a dependency in pyproject.toml."""
    (lowest,) = re.findall(rf'"{name}>=([\d.]+)"', (ROOT / "pyproject.toml").read_text().partition("optional")[0])
    return lowest


def pinned(name: str) -> str:
    """Its version in constraints.txt for this Python."""
    older = sys.version_info < (3, 11)
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        found = re.fullmatch(rf'{name}==([\d.]+)(; python_version (<|>=) "3.11")?', line)
        if found and (found[3] is None or (found[3] == "<") == older):
            return found[1]
    raise AssertionError(name)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wheels.build(tmp_path_factory.mktemp("wheel"))


def test_it_holds_the_package_the_model_and_the_licence(built: Path) -> None:
    with zipfile.ZipFile(built) as archive:
        names = set(archive.namelist())
        metadata = email.message_from_bytes(archive.read(next(name for name in names if name.endswith("/METADATA"))))
        scripts = archive.read(next(name for name in names if name.endswith("/entry_points.txt"))).decode()
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "dode").rglob("*.py")}
    rest = {name for name in names if ".dist-info/" not in name} - modules
    assert modules <= names
    assert rest == {"dode/py.typed", "dode/demo/weights.safetensors"}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "dode = dode.__main__:main" in scripts
    assert metadata["License"] == "Apache-2.0"
    assert {"demo", "diffusers", "k-diffusion"} <= set(metadata.get_all("Provides-Extra", []))
    needed = [text for text in metadata.get_all("Requires-Dist", []) if "extra" not in text]
    assert sorted(needed) == sorted(f"{name}>={declared(name)}" for name in ("torch", "numpy", "safetensors"))


@pytest.mark.parametrize("which", ["lowest", "highest"])
def test_it_works_alone(which: str, built: Path, tmp_path: Path) -> None:
    """With the torch that is here: for Linux its others bring CUDA along, and `python -m tests.wheel` is there for them."""
    lowest = _FIRST.get(sys.version_info[:2], f"{declared('numpy')}.0")
    numpy = lowest if which == "lowest" else pinned("numpy")
    python = wheels.environment(tmp_path / "environment")
    wheels.link(python, "torch")
    wheels.install(python, built, f"numpy=={numpy}")
    said = wheels.check(python, tmp_path / "empty")
    assert said.split()[1] == numpy
    assert float(said.split()[2]) < 1
