"""A checkpoint's fingerprint: the same for the same weights under any name, and cheap however large the file is."""

import functools
import hashlib
import os
import stat
from pathlib import Path
from typing import BinaryIO

_BLOCKS, _BLOCK = 64, 4096  # evenly spread; a merge or a LoRA that is baked in changes some of them, if not all


def fingerprint(path: str | os.PathLike[str]) -> str:
    """A short text for a checkpoint file's weights; "" where there is no such file to read.

    Hashed are the weights' size in bytes and 64 blocks of 4 KiB spread over them. The header of a safetensors file is left
    out, so that edited metadata changes nothing. Taken from the file, not from memory: LoRA, casts and offloading do not show.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            return ""
        return _taken(str(Path(path)), status.st_size, status.st_mtime_ns, status.st_ino)
    except (OSError, ValueError):
        return ""


@functools.lru_cache(maxsize=256)
def _taken(path: str, size: int, changed: int, number: int) -> str:
    """Once for each state of a file. Raises OSError."""
    with open(path, "rb", buffering=0) as stream:
        start = _weights_start(stream, size)
        length = size - start
        if length <= 0:
            return ""
        digest = hashlib.sha256(length.to_bytes(8, "little"))
        last = max(length - _BLOCK, 0)
        for offset in sorted({last * i // (_BLOCKS - 1) for i in range(_BLOCKS)}):
            stream.seek(start + offset)
            digest.update(stream.read(_BLOCK))
    return f"blocks-{digest.hexdigest()[:32]}"


def _weights_start(stream: BinaryIO, size: int) -> int:
    """Where the tensors of a safetensors file start; 0 for other files."""
    head = stream.read(9)
    header = int.from_bytes(head[:8], "little")
    return 8 + header if len(head) == 9 and head[8:] == b"{" and header <= size - 8 else 0
