"""Starts a real WebUI: ``launch.py WEBUI_FOLDER ARGUMENTS``, with what it takes to import it with a CPU-only torch."""

import importlib.util
import os
import runpy
import sys
from pathlib import Path


def main() -> None:
    folder, rest = Path(sys.argv[1]), sys.argv[2:]
    spec = importlib.util.spec_from_file_location("tests_comfyui", Path(__file__).resolve().parent.parent / "comfyui.py")
    assert spec is not None
    assert spec.loader is not None
    helpers = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(helpers)
    helpers.allow_cpu_only_torch()

    os.chdir(folder)
    sys.argv = [str(folder / "launch.py"), *rest]
    sys.path[0] = str(folder)
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
