"""The only layer that knows ComfyUI. Each node adapts; the package ``dode`` next door computes.

``dode`` imports itself by its plain name. ComfyUI gives a pack no place on the module path, and a pack that takes one would
expose its folders ``tests`` and ``nodes`` to everybody. So the one package is put into ``sys.modules`` by hand.
"""

import importlib.util
import sys
from pathlib import Path

PACK = Path(__file__).resolve().parent.parent


def _bring_dode() -> None:
    init = PACK / "dode" / "__init__.py"
    present = getattr(sys.modules.get("dode"), "__file__", None)
    if present is not None and Path(present).resolve() == init:
        return
    # An installed copy may be of another version than these nodes: theirs is the one that counts here.
    for name in [name for name in sys.modules if name == "dode" or name.startswith("dode.")]:
        del sys.modules[name]
    spec = importlib.util.spec_from_file_location("dode", init, submodule_search_locations=[str(init.parent)])
    if spec is None or spec.loader is None:
        raise ImportError(f"{init} is missing. Install the pack anew.")
    module = importlib.util.module_from_spec(spec)
    sys.modules["dode"] = module
    spec.loader.exec_module(module)


_bring_dode()
