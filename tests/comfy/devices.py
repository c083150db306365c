"""What the nodes hand to the host, tensor by tensor: all of it on one device. ``test_devices.py`` runs it.

    python -m tests.comfy.devices COMFYUI_FOLDER DEVICE

On the device "meta" tensors have no numbers: what reads one, or brings one of another device, fails. That needs no
accelerator.
"""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dode.correction import Parameters
from dode.files.parameter_file import Entry, ModelInfo
from tests.comfyui import allow_cpu_only_torch

ROOT = Path(__file__).resolve().parent.parent.parent
GRID = (10.0, 3.0, 0.5, 0.0)


def pack(name: str) -> Any:
    """A module of the pack, in a ComfyUI that has not started."""
    if "pack" not in sys.modules:
        spec = importlib.util.spec_from_file_location("pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
        assert spec is not None
        assert spec.loader is not None
        sys.modules["pack"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return importlib.import_module(f"pack.nodes.{name}")


def tensors(value: Any) -> list[Tensor]:
    """All tensors in nested containers."""
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for part in parts for tensor in tensors(part)]


class Model:
    """What a host's sampler gets, with the usual guider behind it; counts the calls, and how many levels they were told."""

    def __init__(self, device: torch.device, cfg: float):
        self.device, self.calls, self.levels = device, 0, 0
        guider = importlib.import_module("comfy.samplers").CFGGuider
        self.inner_model = guider.__new__(guider)
        self.inner_model.cfg = cfg
        sampling = importlib.import_module("comfy.model_sampling")
        kind = type("Sampling", (sampling.ModelSamplingDiscrete, sampling.EPS), {})
        self.inner_model.inner_model = SimpleNamespace(model_sampling=kind())
        self.inner_model.model_patcher = None
        self.sigmas = torch.tensor(GRID, device=device)

    def here(self, *given: Any) -> None:
        """All tensors that the host gets are on its device."""
        places = {tensor.device.type for tensor in tensors(given)}
        assert places == {self.device.type}, places

    def __call__(self, x: Tensor, sigma: Tensor, **extra_args: Any) -> Tensor:
        self.here(x, sigma, extra_args)
        self.calls += 1
        options = extra_args["model_options"]
        self.levels = len(options["transformer_options"]["sample_sigmas"])
        out = x * 0.5
        for after in options.get("sampler_post_cfg_function", ()):
            out = after({"cond_denoised": out, "uncond_denoised": x, "uncond": x, "denoised": out})
        return out


def entry(coordinate: str = "log_sigma") -> Entry:
    """Parameters with everything that there is: λ, γ, noise levels that the model is told."""
    values = np.array([[0.0], [0.1], [0.1]])
    told = (9.0, 2.5, 0.6)
    parameters = Parameters("euler", 1, "data", GRID, values, coordinate, np.full((3, 1), 0.1), told)
    return Entry(parameters, ModelInfo(), 3.0, None, {})


def sampling(device: torch.device) -> None:
    """An entry on the host's model, with a mask, and with a callback as previews have it."""
    guided = pack("host.guided")
    model, x = Model(device, 3.0), torch.zeros(2, 4, 8, 8, device=device)
    options = {"transformer_options": {"sample_sigmas": model.sigmas}}
    arguments = {"model_options": options, "seed": 1, "denoise_mask": torch.ones(2, 1, 8, 8, device=device)}
    result = guided.run_entry(entry(), model, x, torch.tensor(GRID), arguments, lambda shown: model.here(shown), True)
    model.here(result)
    assert (model.calls, model.levels) == (3, 4)
    assert options["transformer_options"]["sample_sigmas"] is model.sigmas, "what the host gave is as it was"


def starting(device: torch.device) -> None:
    """The noisy start of a fit is where the noise is."""
    guided, noise = pack("host.guided"), torch.zeros(2, 4, 8, 8, device=device)
    model = Model(device, 3.0)
    model.here(guided.start_at(model.inner_model, noise, 3.0))


def guidance_off(device: torch.device) -> None:
    """Where the host gives one output only, what stands for the difference is where that is."""
    guided = pack("host.guided")
    model, x = Model(device, 3.0), torch.zeros(2, 4, 8, 8, device=device)
    options = {"transformer_options": {"sample_sigmas": model.sigmas}}
    model.__class__ = type("OneOutput", (Model,), {"__call__": lambda self, x, sigma, **_: (self.here(x, sigma), x)[1]})
    output = guided.with_guidance(model, options)(x, x.new_full((2,), 3.0), model_options=options)
    assert len(output) == 2
    model.here(*output)


def main() -> None:
    folder, device = sys.argv[1], torch.device(sys.argv[2])
    allow_cpu_only_torch()
    sys.path.insert(0, folder)
    importlib.import_module("comfy.cli_args").args.cpu = device.type != "cuda"
    for check in (sampling, starting, guidance_off):
        check(device)
        print(f"{check.__name__}: on {device}")


if __name__ == "__main__":
    main()
