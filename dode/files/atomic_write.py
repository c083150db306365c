"""Files that are there whole or not at all, whatever happens while they are written."""

import contextlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

_LEFT_BEHIND = re.compile(r"\.[0-9a-f]{16}\.dode-tmp")
_OLD = 3600.0  # seconds after which nobody writes to a temporary file any more


def write(target: Path, data: bytes, *, overwrite: bool = False) -> None:
    """Write a file so that at any moment, a crash of the machine included, it is the old one or the new one.

    The bytes go to another name in the same folder and onto the disk; then that file takes the name in one step, which fails
    if somebody else took it first.

    Raises:
        FileExistsError: the name is taken and ``overwrite`` is off. OSError: what else can happen; nothing was changed then.
    """
    _clear(target.parent)
    temporary = target.with_name(f".{secrets.token_hex(8)}.dode-tmp")
    try:
        with open(temporary, "xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        if overwrite:
            os.replace(temporary, target)
        else:
            _take_name(temporary, target)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    _sync_folder(target.parent)


def _take_name(temporary: Path, target: Path) -> None:
    """Give a file a name that is free, in one step."""
    if os.name == "nt":
        os.rename(temporary, target)  # refuses a name that is taken
        return
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without links, such as exFAT: one of our writers at a time
        with _locked(target.parent):
            if os.path.lexists(target):
                raise FileExistsError(f"{target} exists") from None
            os.replace(temporary, target)


def move(source: Path, target: Path) -> None:
    """Give a file another name, on the same disk, that nobody else has or gets meanwhile.

    Raises:
        FileExistsError: the name is taken. OSError: what else can happen; nothing was changed then.
    """
    _take_name(source, target)
    with contextlib.suppress(FileNotFoundError):  # where taking the name moved it
        os.unlink(source)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The folder's lock, which ends with the process."""
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Put the name on the disk too. Where a folder cannot be opened or synced the system does without."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _clear(folder: Path) -> None:
    """Remove what writers that were killed have left behind."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            if _LEFT_BEHIND.fullmatch(entry.name) and time.time() - entry.stat(follow_symlinks=False).st_mtime > _OLD:
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)
