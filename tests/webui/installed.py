"""The extension in a stand-in of a WebUI, loaded as these hosts load it."""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dode.files.parameter_file import Entry, save_parameters
from tests.webui.standins import WebUI, installed

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPT = ROOT / "scripts" / "dode_webui.py"
ADAPTER = "dode_webui_adapter"


def load_script() -> Any:
    """Run the extension's script as the hosts do: under its file's name, outside of any package."""
    spec = importlib.util.spec_from_file_location(SCRIPT.name, SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass
class Installed:
    """A WebUI with the extension in it."""

    web: WebUI
    script: Any

    def part(self, name: str) -> Any:
        """A module of the adapter, as it was loaded."""
        return sys.modules[f"{ADAPTER}.{name}"]

    def put(self, name: str, *entries: Entry) -> Path:
        """Parameters in models/dode."""
        return save_parameters(self.web.folder / "models" / "dode" / f"{name}.safetensors", list(entries))


@contextmanager
def webuis(folder: Path) -> Iterator[Callable[..., Installed]]:
    """Yields what starts a WebUI of a kind, with these saved settings. Afterwards none of its modules is left."""

    def ours(name: str) -> bool:
        return name == "modules" or name.startswith(("modules.", ADAPTER))

    before = {name: module for name, module in sys.modules.items() if ours(name)}

    def make(kind: str, **saved: Any) -> Installed:
        for name in [name for name in sys.modules if name.startswith(ADAPTER)]:
            del sys.modules[name]
        web = WebUI(kind, folder, **saved)
        installed(web)
        return Installed(web, load_script())

    yield make
    for name in [name for name in sys.modules if ours(name)]:
        del sys.modules[name]
    sys.modules.update(before)
