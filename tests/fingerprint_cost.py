"""How long a fingerprint takes: ``python -m tests.fingerprint_cost FILE [SIZE_GB]`` makes FILE if it is not there.

The file's pages are dropped from the system's cache before each time, so that it comes from the disk.
"""

import os
import sys
import time
from pathlib import Path

from dode.files.fingerprint import _taken, fingerprint

_CHUNK = 1 << 26


def main() -> None:
    path = Path(sys.argv[1])
    if not path.exists():
        with open(path, "wb") as stream:
            block = os.urandom(_CHUNK)
            for _ in range(int(float(sys.argv[2]) * 1e9) // _CHUNK):
                stream.write(block)
            os.fsync(stream.fileno())
    for name in ("from the disk", "from the disk", "from the disk", "from the system's cache", "known already"):
        if name != "known already":
            _taken.cache_clear()
        if name == "from the disk":
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
        began = time.perf_counter()
        found = fingerprint(path)
        print(f"{path.stat().st_size / 1e9:.1f} GB {name:24} {1000 * (time.perf_counter() - began):7.3f} ms  {found}")


if __name__ == "__main__":
    main()
