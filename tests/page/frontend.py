"""The host's page in another version than the installed one: its wheel from the registry, fetched once into ``.cache/``."""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from tests.comfyui import CACHE
from tests.page.packages import keep

NEWEST = "1.58.1"  # that the registry serves; the one in constraints.txt belongs to the host of the tests
_PACKAGE = "comfyui-frontend-package"


def frontend(version: str) -> Path:
    """The folder for the host's option ``--front-end-root``.

    Raises RuntimeError where it cannot be had; the message has pip's words.
    """
    target = CACHE / f"{_PACKAGE}-{version}"
    if not (target / "static" / "index.html").is_file():
        CACHE.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
            done = subprocess.run([*command, f"{_PACKAGE}=={version}"], capture_output=True, text=True)
            wheels = list(Path(folder).glob("*.whl"))
            if done.returncode or not wheels:
                raise RuntimeError(f"{_PACKAGE} {version} could not be fetched:\n{done.stderr.strip()[-800:]}")
            with zipfile.ZipFile(wheels[0]) as wheel:
                wheel.extractall(folder)
            keep(Path(folder) / _PACKAGE.replace("-", "_"), target)
    return target / "static"
