"""Nodes for the tests: tiny models of every kind, through the host's own model classes, with fixed random weights."""

import importlib
import sys
from pathlib import Path
from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.samplers
import comfy.supported_models_base
import folder_paths
import torch
from comfy.ldm.wan.model import WanModel
from comfy.model_base import ModelType
from safetensors.torch import save_file
from torch import Tensor

from . import waiting as waiting
from .clock import Clock
from .faults import Fault

KINDS = {"eps": ModelType.EPS, "v": ModelType.V_PREDICTION, "edm": ModelType.EDM, "flow": ModelType.FLOW}


class Network(torch.nn.Module):
    """Smooth, nonlinear, and dependent on everything a real one depends on."""

    dtype = torch.float32

    def __init__(self, channels: int, width: int = 8):
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.mix = torch.nn.Parameter(torch.randn(width, channels, 3, 3, generator=generator) / 4, requires_grad=False)
        self.out = torch.nn.Parameter(torch.randn(channels, width, 3, 3, generator=generator) / width, requires_grad=False)

    def forward(self, x: Tensor, t: Tensor, context: Tensor | None = None, **_: Any) -> Tensor:
        shift = torch.sin(t.float() / 100).view(-1, 1, 1, 1)
        if context is not None:
            shift = shift + context.float().mean((1, 2)).view(-1, 1, 1, 1)
        h = torch.nn.functional.conv2d(x, self.mix, padding=1)
        return torch.nn.functional.conv2d(torch.tanh(h + shift), self.out, padding=1) + 0.3 * x


class TestModel:
    """MODEL and two CONDITIONINGs."""

    RETURN_TYPES = ("MODEL", "CONDITIONING", "CONDITIONING")
    FUNCTION = "make"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"kind": (list(KINDS),)}, "optional": {"width": ("INT", {"default": 8, "max": 4096})}}

    def make(self, kind: str, width: int = 8) -> tuple[Any, ...]:
        class Config(comfy.supported_models_base.BASE):
            unet_config = {"disable_unet_model_creation": True, "dtype": torch.float32}  # noqa: RUF012
            latent_format = comfy.latent_formats.SD15
            memory_usage_factor = 1.0

        model = comfy.model_base.BaseModel(Config(Config.unet_config), model_type=KINDS[kind])
        model.diffusion_model = Network(4, width)
        device = comfy.model_management.get_torch_device()
        patcher = comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=device)
        positive, negative = ([[torch.full((1, 2, 8), v), {"pooled_output": None}]] for v in (0.5, -0.5))
        return patcher, positive, negative


class WatchSigmas:
    """Fails the run if a model call's σ is not among the host's ``sample_sigmas``, as some of the host's models do."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"model": ("MODEL",)}}

    def patch(self, model: Any) -> tuple[Any]:
        def wrapper(apply_model: Any, arguments: dict[str, Any]) -> Any:
            options = arguments["c"]["transformer_options"]
            sigma = arguments["timestep"][0]
            if not torch.any(options["sample_sigmas"].to(sigma) == sigma):
                raise RuntimeError(f"sigma {float(sigma)} is not among {options['sample_sigmas'].tolist()}")
            return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

        patched = model.clone()
        patched.set_model_unet_function_wrapper(wrapper)
        return (patched,)


class Through:
    """Gives back what it gets, as nodes that put an image into conditionings and make the latent for it."""

    RETURN_TYPES = ("CONDITIONING", "CONDITIONING", "LATENT")
    FUNCTION = "make"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"positive": ("CONDITIONING",), "negative": ("CONDITIONING",), "latent": ("LATENT",)}}

    def make(self, positive: Any, negative: Any, latent: Any) -> tuple[Any, ...]:
        return positive, negative, latent


class Numbers:
    """A list of FLOATs."""

    RETURN_TYPES = ("FLOAT",)
    OUTPUT_IS_LIST = (True,)
    FUNCTION = "make"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {}}

    def make(self) -> tuple[Any]:
        return ([2.0, 3.0],)


class OneAtATime:
    """A patch made for one picture: with two it breaks, gives NaN, or lets one have a say in the other."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"model": ("MODEL",), "how": (["breaks", "nan", "mixes"],)}}

    def patch(self, model: Any, how: str) -> tuple[Any]:
        def guide(arguments: dict[str, Any]) -> Tensor:
            sigma, denoised = arguments["sigma"], arguments["denoised"]
            if how == "breaks":
                return denoised if sigma > 1 else 0.9 * denoised
            if how == "nan":
                return denoised / (len(denoised) == 1)
            return (denoised + denoised.mean(0, keepdim=True)) / 2

        patched = model.clone()
        patched.set_model_sampler_post_cfg_function(guide)
        return (patched,)


class StockSampler:
    """The host's own sampler function that a method of this pack says it reproduces, as a SAMPLER."""

    RETURN_TYPES = ("SAMPLER",)
    FUNCTION = "make"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"method": ("STRING", {}), "number": ("INT", {})}}

    def make(self, method: str, number: int) -> tuple[Any]:
        entry = sys.modules["dode.methods"].get_method(method)
        module, _, name = entry.stock[number].function.partition(":")
        function = getattr(importlib.import_module(module), name)

        def on_its_own_sigmas(model: Any, x: Tensor, sigmas: Tensor, **named: Any) -> Tensor:
            return function(model, x, sigmas.clone(), **named)  # some of the host's samplers write into them

        return (comfy.samplers.KSAMPLER(on_its_own_sigmas, dict(entry.stock[number].options(entry.default_order))),)


class WrapSampler:
    """A SAMPLER whose function gets a plain function as its model, as some packs' samplers around samplers do."""

    RETURN_TYPES = ("SAMPLER",)
    FUNCTION = "wrap"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"sampler": ("SAMPLER",), "inside": ("BOOLEAN", {})}}

    def wrap(self, sampler: Any, inside: bool) -> tuple[Any]:
        def sample(model: Any, x: Tensor, sigmas: Tensor, **named: Any) -> Tensor:
            def call(x: Tensor, sigma: Tensor, **extra_args: Any) -> Tensor:
                return model(x, sigma, **extra_args)

            if inside:  # what is wrapped can be found, but is not the guider itself
                call.inner_model = model  # pyright: ignore[reportFunctionMemberAccess]
            return sampler.sampler_function(call, x, sigmas, **named, **sampler.extra_options)

        return (comfy.samplers.KSAMPLER(sample),)


class TestCheckpoint:
    """Writes a checkpoint into models/diffusion_models, for the host's own loader: the smallest Wan, with random weights.

    Two CONDITIONINGs for it. With an empty name nothing is written.
    """

    RETURN_TYPES = ("CONDITIONING", "CONDITIONING")
    FUNCTION = "write"
    CATEGORY = "test"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"name": ("STRING", {}), "seed": ("INT", {})}}

    def write(self, name: str, seed: int) -> Any:
        if name:
            torch.manual_seed(seed)
            sizes = {"dim": 128, "ffn_dim": 128, "num_heads": 1, "num_layers": 1, "in_dim": 16, "out_dim": 16}
            network = WanModel(model_type="t2v", **sizes, device="cpu", dtype=torch.float32, operations=comfy.ops.manual_cast)
            weights = {key: torch.randn_like(value) / 20 for key, value in network.state_dict().items()}
            folder = Path(folder_paths.models_dir) / "diffusion_models"
            folder.mkdir(parents=True, exist_ok=True)
            save_file(weights, folder / name)
        positive, negative = ([[torch.full((1, 2, 4096), v), {"pooled_output": None}]] for v in (0.5, -0.5))
        return {"ui": {"text": (name,)}, "result": (positive, negative)}


NODE_CLASS_MAPPINGS = {
    "DodeTestClock": Clock,
    "DodeTestFault": Fault,
    "DodeTestStockSampler": StockSampler,
    "DodeTestModel": TestModel,
    "DodeTestWatchSigmas": WatchSigmas,
    "DodeTestCheckpoint": TestCheckpoint,
    "DodeTestThrough": Through,
    "DodeTestNumbers": Numbers,
    "DodeTestOneAtATime": OneAtATime,
    "DodeTestWrapSampler": WrapSampler,
}
