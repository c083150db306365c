"""D-ODE for Stable Diffusion WebUI. The host runs this file when it starts, and again when its page starts again.

The adapter is the folder ``webui`` beside this one. The hosts have a module of that name themselves, so it goes by another.
"""

import importlib.util
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "webui"
NAME = "dode_webui_adapter"

if str(FOLDER.parent) not in sys.path:  # the hosts put it there while this runs, and what is imported later is below `dode`
    sys.path.insert(0, str(FOLDER.parent))

if NAME not in sys.modules:
    _found = importlib.util.spec_from_file_location(NAME, FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)])
    assert _found is not None
    assert _found.loader is not None
    sys.modules[NAME] = importlib.util.module_from_spec(_found)
    _found.loader.exec_module(sys.modules[NAME])

if importlib.import_module(f"{NAME}.register").start():
    # The host looks among the names of this file for classes of scripts.
    DistillPanel = importlib.import_module(f"{NAME}.panel").DistillPanel
