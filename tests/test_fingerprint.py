"""A checkpoint's fingerprint: the same for the same weights, another for others, cheap for any size."""

import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from dode.files import fingerprint as module
from dode.files.fingerprint import fingerprint


def checkpoint(path: Path, seed: int = 0, **metadata: str) -> Path:
    numbers = np.random.default_rng(seed).standard_normal((400, 500)).astype(np.float32)
    save_file({"weight": numbers, "bias": np.zeros(7, dtype=np.float32)}, path, metadata or None)
    return path


def test_it_is_of_the_weights_and_not_of_name_place_time_or_metadata(tmp_path: Path) -> None:
    one = fingerprint(checkpoint(tmp_path / "one.safetensors"))
    assert len(one) == len("blocks-") + 32
    (tmp_path / "folder").mkdir()
    other = checkpoint(tmp_path / "folder" / "renamed.safetensors", title="edited", notes="x" * 5000)
    os.utime(other, (0, 0))
    assert fingerprint(other) == fingerprint(str(other)) == one
    assert fingerprint(checkpoint(tmp_path / "two.safetensors", seed=1)) != one


def test_a_changed_file_has_another_one(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "a.safetensors")
    before = fingerprint(path)
    checkpoint(path, seed=1)
    assert fingerprint(path) != before


def test_a_merge_that_changes_a_tenth_of_a_large_file_is_seen(tmp_path: Path) -> None:
    """64 blocks over the file: a part as large as a 64th of it, anywhere, is met by one."""
    data = bytearray(np.random.default_rng(0).bytes(8 << 20))
    path = tmp_path / "a.ckpt"
    path.write_bytes(data)
    seen = {fingerprint(path)}
    size = len(data) // 60
    for number in range(10):
        changed = bytearray(data)
        start = number * (len(data) - size) // 9
        changed[start : start + size] = bytes(byte ^ 1 for byte in changed[start : start + size])
        path.write_bytes(changed)
        os.utime(path, (number, number))
        seen.add(fingerprint(path))
    assert len(seen) == 11


def test_what_is_no_checkpoint_has_none(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "header only").write_bytes((2).to_bytes(8, "little") + b"{}")
    for name in ("missing", "", "empty", "pipe", "header only", "null\0byte"):
        assert fingerprint(tmp_path / name) == "", name


def test_other_formats_and_broken_headers_are_taken_whole(tmp_path: Path) -> None:
    seen = set()
    for number, data in enumerate((b"GGUF", b"x" * 9, b"\xff" * 8 + b"{" + b"y" * 100, b"\x00" * 8 + b"{")):
        path = tmp_path / str(number)
        path.write_bytes(data)
        seen.add(fingerprint(path))
    assert len(seen) == 4
    assert "" not in seen


@pytest.mark.parametrize("size", [1 << 20, 1 << 40])
def test_little_is_read_of_a_file_of_any_size(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it takes does not grow with the file; how long that is, ``python -m tests.fingerprint_cost FILE`` says."""
    path, read = tmp_path / "large", []
    with open(path, "wb") as stream:
        stream.truncate(size)

    class Counting:
        def __init__(self, path: str, *_: object, **__: object):
            self.stream = open(path, "rb", buffering=0)  # noqa: SIM115

        def __enter__(self) -> "Counting":
            return self

        def __exit__(self, *_: object) -> None:
            self.stream.close()

        def seek(self, offset: int) -> int:
            return self.stream.seek(offset)

        def read(self, count: int) -> bytes:
            read.append(count)
            return self.stream.read(count)

    monkeypatch.setattr(module, "open", Counting, raising=False)
    assert fingerprint(path)
    assert sum(read) <= 64 * 4096 + 9
    reads = len(read)
    assert fingerprint(path)
    assert len(read) == reads, "a file that did not change is not read again"
