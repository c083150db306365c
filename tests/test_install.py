"""install.py: what it does in ComfyUI's Python, and what it says when something is missing."""

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with what install.py looks at."""
    for name in ("install.py", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "no_deps.txt", tmp_path / "tests")
    (tmp_path / "dode").mkdir()
    (tmp_path / "dode" / "__init__.py").touch()
    return tmp_path


def run(folder: Path, *arguments: str, python: str = sys.executable, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [python, str(folder / "install.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


def test_inside_comfyui_it_installs_nothing_and_says_so(clone: Path) -> None:
    before = sorted(clone.rglob("*"))
    for _ in range(2):
        done = run(clone, PIP_NO_INDEX="1")
        assert done.returncode == 0, done.stderr
        assert "torch 2" in done.stdout
        assert "nothing to install" in done.stdout
    assert sorted(clone.rglob("*")) == before


def test_at_every_start_of_a_webui_it_is_silent(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Cloned into extensions/, or linked there."""
    extensions = tmp_path_factory.mktemp("webui") / "extensions"
    shutil.copytree(clone, extensions / "D-ODE")
    (extensions / "linked").symlink_to(clone, target_is_directory=True)
    for name in ("D-ODE", "linked"):
        done = run(extensions / name, PIP_NO_INDEX="1")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    bare = extensions.parent / "bare"
    venv.create(bare)
    done = run(extensions / "D-ODE", python=str(bare / ("Scripts/python.exe" if os.name == "nt" else "bin/python")))
    assert done.returncode == 1
    assert "which the WebUI itself needs" in done.stderr


def test_in_a_python_without_torch_it_says_what_is_missing(clone: Path) -> None:
    bare = clone / "bare"
    venv.create(bare)
    done = run(clone, python=str(bare / ("Scripts/python.exe" if os.name == "nt" else "bin/python")))
    assert done.returncode == 1
    assert "lacks torch, numpy, safetensors" in done.stderr
    assert "Traceback" not in done.stderr


def test_offline_it_says_so_and_can_be_run_again(clone: Path) -> None:
    for _ in range(2):
        done = run(clone, "--demo", PIP_NO_INDEX="1")
        assert done.returncode == 1
        assert "offline" in done.stderr
        assert "Traceback" not in done.stderr
        assert not (clone / ".venv" / "installed-demo").exists()


def test_among_comfyui_s_packs_the_environment_lies_elsewhere(clone: Path, tmp_path: Path) -> None:
    """ComfyUI looks through its packs' folders."""
    pack, cache = tmp_path / "custom_nodes" / "d-ode", tmp_path / "cache"
    shutil.copytree(clone, pack, ignore=shutil.ignore_patterns("custom_nodes"))
    before = sorted(pack.rglob("*"))
    done = run(pack, "--demo", PIP_NO_INDEX="1", XDG_CACHE_HOME=str(cache), LOCALAPPDATA=str(cache))
    assert "offline" in done.stderr
    assert sorted(pack.rglob("*")) == before
    (made,) = (cache / "d-ode").iterdir()
    assert str(made) in done.stdout
    (pack / ".venv").mkdir()
    assert "delete it" in run(pack, "--demo", PIP_NO_INDEX="1", XDG_CACHE_HOME=str(cache), LOCALAPPDATA=str(cache)).stdout


def test_a_second_run_finds_the_environment_ready(clone: Path) -> None:
    """With a stamp that matches and a Python that works, nothing is installed: pip could not even reach an index."""
    (clone / ".venv" / "bin").mkdir(parents=True)
    python = clone / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    stamp = clone / ".venv" / "installed-test"
    files = [clone / name for name in ("pyproject.toml", "constraints.txt", "tests/no_deps.txt")]
    stamp.write_text(hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest())
    done = run(clone, "--test", "--version", PIP_NO_INDEX="1")
    assert done.returncode == 0, done.stderr
    assert "is ready" in done.stdout
    (clone / "constraints.txt").write_text("torch==0.0.0\n")
    assert run(clone, "--test", "--version", PIP_NO_INDEX="1").returncode == 1


def test_flags_that_do_not_exist_are_refused(clone: Path) -> None:
    assert run(clone, "--demmo").returncode == 2
    assert run(clone, "--demo", "--test").returncode == 2
