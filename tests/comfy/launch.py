"""Starts a real ComfyUI server: ``launch.py COMFYUI_FOLDER [--hide MODULE:NAME ...] -- ARGUMENTS``.

``--hide`` takes one attribute away from the host before it loads its extensions, as in a version that does not have it.
"""

import argparse
import importlib
import importlib.util
import runpy
import sys
from pathlib import Path


def main() -> None:
    own, rest = sys.argv[1 : sys.argv.index("--")], sys.argv[sys.argv.index("--") + 1 :]
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--hide", action="append", default=[])
    options = parser.parse_args(own)

    spec = importlib.util.spec_from_file_location("tests_comfyui", Path(__file__).resolve().parent.parent / "comfyui.py")
    assert spec is not None
    assert spec.loader is not None
    helpers = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(helpers)
    helpers.allow_cpu_only_torch()

    sys.argv = [str(options.folder / "main.py"), *rest]
    sys.path[0] = str(options.folder)
    if options.hide:
        importlib.import_module("comfy.options").enable_args_parsing()
        importlib.import_module("comfy.sd")
    # All first, and the host's loader with them: its own modules use one another while they are imported.
    hidden = [(importlib.import_module(path.partition(":")[0]), path.partition(":")[2]) for path in options.hide]
    for module, name in hidden:
        delattr(module, name)
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
