"""Writing: the old file or the new one, whatever happens in between."""

import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dode import load_parameters, save_parameters
from dode.errors import FileExistsAlready, ParameterFileError
from dode.files import atomic_write
from tests.kill_writer import NEW, OLD, state

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return save_parameters(tmp_path / "a.safetensors", OLD)


def alone(path: Path) -> None:
    """The file is the only one in its folder."""
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_killed_writers_leave_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    """At every call to the system, and 300 times at random; and with a second writer of the same name at every call."""
    command = [sys.executable, "-m", "tests.kill_writer", str(tmp_path), "300", "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert "torn" not in done.stdout
    assert min(found["killed at a call"][left] for left in ("nothing", "old", "new")) > 3
    assert sum(found["killed at random"].values()) == 300
    assert min(found["second writer at a call"][left] for left in ("old", "new")) > 3


def test_a_disk_that_is_full_leaves_the_old_file(old: Path) -> None:
    """The system refuses to write beyond so many bytes: at none, in the header, in the tensors, at the last byte."""
    size = len(old.read_bytes())
    for limit in (0, 100, size // 2, size - 1):
        with limited(limit), pytest.raises(ParameterFileError, match="could not be written"):
            save_parameters(old, NEW, overwrite=True)
        with limited(limit), pytest.raises(ParameterFileError, match="could not be written"):
            save_parameters(old.with_name("b.safetensors"), NEW)
        assert state(old) == "old"
        alone(old)
    with limited(size + 1000):
        save_parameters(old, NEW, overwrite=True)
    assert state(old) == "new"


@contextlib.contextmanager
def limited(size: int) -> Iterator[None]:
    """No file of this process grows beyond this many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_device_without_space_leaves_the_old_file(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = open
    monkeypatch.setattr(atomic_write, "open", lambda path, mode: real("/dev/full", "wb"), raising=False)
    with pytest.raises(ParameterFileError, match="No space left on device"):
        save_parameters(old, NEW, overwrite=True)
    assert state(old) == "old"
    alone(old)


def test_a_folder_that_cannot_be_written_keeps_its_file() -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        path = save_parameters(folder / "a.safetensors", OLD)
        folder.chmod(0o555)
        with unprivileged():
            for name in ("a", "b"):
                with pytest.raises(ParameterFileError, match="Permission denied"):
                    save_parameters(folder / f"{name}.safetensors", NEW, overwrite=True)
            with pytest.raises(ParameterFileError, match="Permission denied"):
                save_parameters(folder / "new" / "c.safetensors", NEW)
            assert len(load_parameters(path).entries) == len(OLD)
        assert state(path) == "old"
        alone(path)
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """As somebody to whom permissions apply: for root they do not."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_the_bytes_are_on_the_disk_before_the_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for overwrite, takes in ((False, "link"), (True, "replace")):
        order: list[str] = []
        with monkeypatch.context() as patch:
            for name in ("fsync", "link", "replace"):
                patch.setattr(os, name, _noted(order, name, getattr(os, name)))
            save_parameters(tmp_path / f"{takes}.safetensors", OLD, overwrite=overwrite)
        assert order == ["fsync file", takes, "fsync folder"]


def _noted(order: list[str], name: str, real):
    def call(*args: object) -> object:
        kind = "" if name != "fsync" else " folder" if os.path.isdir(f"/proc/self/fd/{args[0]}") else " file"
        order.append(name + kind)
        return real(*args)

    return call


def test_without_links_a_name_is_taken_once_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", unsupported)
    path = save_parameters(tmp_path / "a.safetensors", OLD)
    with pytest.raises(FileExistsAlready):
        save_parameters(path, NEW)
    assert state(path) == "old"
    alone(path)


def test_a_name_that_is_a_link_is_taken(tmp_path: Path) -> None:
    """Nothing is followed: a link that leads nowhere is a name too, and replacing it leaves what it leads to."""
    (tmp_path / "elsewhere").write_text("mine")
    for name, target in (("broken", "nowhere"), ("whole", "elsewhere")):
        path = tmp_path / f"{name}.safetensors"
        path.symlink_to(tmp_path / target)
        with pytest.raises(FileExistsAlready):
            save_parameters(path, NEW)
        save_parameters(path, NEW, overwrite=True)
        assert not path.is_symlink()
    assert (tmp_path / "elsewhere").read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()


def test_what_killed_writers_leave_is_removed_after_an_hour(tmp_path: Path) -> None:
    stale, fresh = ".0123456789abcdef.dode-tmp", ".fedcba9876543210.dode-tmp"
    names = {stale: True, fresh: False, ".notes.dode-tmp": False, "mine.tmp": False}
    for name in names:
        (tmp_path / name).write_text("")
    hours_ago = time.time() - 7200
    for name in names:
        if name != fresh:
            os.utime(tmp_path / name, (hours_ago, hours_ago))
    save_parameters(tmp_path / "a.safetensors", OLD)
    assert {path.name for path in tmp_path.iterdir()} == {"a.safetensors", *(n for n, gone in names.items() if not gone)}
