"""Nodes for the tests: models of every kind that people load, built small through the host's own model classes.

The host's own configuration, model and network classes, with a few channels and one or two blocks, and fixed random weights.
The networks are as nonlinear, as conditioned and as large in their outputs as trained ones; they draw nothing.
"""

import copy
import math
from dataclasses import dataclass, field
from typing import Any

import comfy.cldm.cldm
import comfy.controlnet
import comfy.model_management
import comfy.model_patcher
import comfy.nested_tensor
import comfy.ops
import comfy.sample
import comfy.supported_models
import torch

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Kind:
    """A model kind.

    Attributes:
        config: name of the host's configuration class.
        unet: the small network's arguments.
        latent: shape of one latent, or of its parts where it is packed.
        context, pooled: widths of the conditioning.
        state: keys of a checkpoint by which the host tells the kind of prediction.
    """

    config: str
    unet: dict[str, Any]
    latent: tuple[int, ...] | tuple[tuple[int, ...], ...]
    context: int = 16
    pooled: int | None = None
    state: dict[str, torch.Tensor] = field(default_factory=dict)


def _unet(**more: Any) -> dict[str, Any]:
    small = {"image_size": 8, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1, 1]}
    small |= {"channel_mult": (1, 2, 4), "transformer_depth": [1, 1, 1], "transformer_depth_output": [1, 1, 1, 1, 1, 1]}
    small |= {"transformer_depth_middle": 1, "context_dim": 16, "use_spatial_transformer": True, "legacy": False}
    small |= {"num_heads": 4, "num_head_channels": -1, "use_linear_in_transformer": False, "use_temporal_attention": False}
    return {**small, **more}


# Attention where patches of it look for it, with the least and the most channels.
_ONE_LEVEL = {"transformer_depth": [1, 0, 0], "transformer_depth_output": [1, 1, 0, 0, 0, 0]}
# These have heads of 64 channels.
_WIDE = _unet(use_linear_in_transformer=True, transformer_depth=[0, 1], transformer_depth_output=[0, 0, 1, 1])
_WIDE |= {"channel_mult": (1, 2), "num_res_blocks": [1, 1]}
_XL = {**_WIDE, "num_classes": "sequential", "adm_in_channels": 1536 + 16}
_COSMOS = {"max_img_h": 32, "max_img_w": 32, "max_frames": 8, "in_channels": 16, "out_channels": 16, "patch_spatial": 2}
_COSMOS |= {"patch_temporal": 1, "model_channels": 48, "num_blocks": 2, "num_heads": 2, "crossattn_emb_channels": 16}
_COSMOS |= {"pos_emb_cls": "rope3d", "pos_emb_learnable": True, "use_adaln_lora": True, "adaln_lora_dim": 8}
_LTX = {"attention_head_dim": 24, "num_attention_heads": 2, "cross_attention_dim": 48, "caption_channels": 16, "num_layers": 2}

KINDS = {
    "SD1.5": Kind("SD15", _unet(**_ONE_LEVEL), (4, 8, 8)),
    "SD2, v": Kind(
        "SD20",
        _WIDE,
        (4, 8, 8),
        state={"output_blocks.11.1.transformer_blocks.0.norm1.bias": torch.tensor([-1.0, 1.0])},
    ),
    "SDXL": Kind("SDXL", _XL, (4, 8, 8), pooled=16),
    "SDXL, v, zero terminal SNR": Kind(
        "SDXL", _XL, (4, 8, 8), pooled=16, state={"v_pred": torch.ones(1), "ztsnr": torch.ones(1)}
    ),
    "EDM (Playground 2.5)": Kind(
        "SDXL", _XL, (4, 8, 8), pooled=16, state={"edm_mean": torch.zeros(1), "edm_std": torch.ones(1)}
    ),
    "Stable Cascade, stage C": Kind(
        "Stable_Cascade_C",
        {"stable_cascade_stage": "c", "c_cond": 16, "c_hidden": [32, 32], "nhead": [2, 2], "blocks": [[1, 1], [1, 1]]}
        | {"c_clip_text": 16, "c_clip_text_pooled": 16, "c_clip_img": 768},
        (16, 8, 8),
        pooled=16,
    ),
    "SD3": Kind(
        "SD3",
        {"input_size": None, "patch_size": 2, "in_channels": 16, "depth": 2, "adm_in_channels": 16, "num_blocks": 2}
        | {"context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 16, "out_features": 128}}}
        | {"pos_embed_max_size": 16, "pos_embed_scaling_factor": None, "context_size": 16},
        (16, 8, 8),
        pooled=16,
    ),
    "Flux": Kind(
        "Flux",
        {"image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": 16, "context_in_dim": 16}
        | {"hidden_size": 48, "mlp_ratio": 2.0, "num_heads": 2, "depth": 1, "depth_single_blocks": 1, "theta": 10000}
        | {"axes_dim": [8, 8, 8], "patch_size": 2, "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": []},
        (16, 8, 8),
        pooled=16,
    ),
    "Lumina 2": Kind(
        "Lumina2",
        {"image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 48, "n_layers": 2, "n_refiner_layers": 1}
        | {"n_heads": 2, "n_kv_heads": 1, "multiple_of": 16, "qk_norm": True, "cap_feat_dim": 16, "axes_dims": [8, 8, 8]}
        | {"axes_lens": [300, 64, 64], "ffn_dim_multiplier": 1.0},
        (16, 8, 8),
    ),
    "Cosmos Predict 2": Kind("CosmosT2IPredict2", {"image_model": "cosmos_predict2", **_COSMOS}, (16, 1, 8, 8)),
    "Wan 2.1, video": Kind(
        "WAN21_T2V",
        {"image_model": "wan2.1", "model_type": "t2v", "patch_size": (1, 2, 2), "in_dim": 16, "out_dim": 16, "dim": 48}
        | {"ffn_dim": 64, "freq_dim": 32, "text_dim": 16, "num_heads": 2, "num_layers": 2, "text_len": 8},
        (16, 3, 8, 8),
    ),
    "LTX, video": Kind("LTXV", {"image_model": "ltxv", "in_channels": 128, **_LTX}, (128, 3, 4, 4)),
    "LTX, video and sound": Kind(
        "LTXAV",
        {"image_model": "ltxav", "in_channels": 128, "audio_in_channels": 128, **_LTX}
        | {"audio_attention_head_dim": 12, "audio_num_attention_heads": 2, "audio_cross_attention_dim": 24}
        | {"connector_attention_head_dim": 8, "connector_num_attention_heads": 2, "connector_num_layers": 1},
        ((128, 3, 4, 4), (8, 6, 16)),
        context=32,
    ),
    "PixelDiT, pixels": Kind(
        "PixelDiTT2I",
        {"image_model": "pixeldit_t2i", "in_channels": 3, "num_groups": 2, "hidden_size": 48, "pixel_hidden_size": 4}
        | {"pixel_attn_hidden_size": 32, "pixel_num_groups": 2, "patch_depth": 1, "pixel_depth": 1, "txt_embed_dim": 16},
        (3, 32, 32),
    ),
}


def weights(network: torch.nn.Module) -> None:
    """Fixed random weights: matrices that keep the size of what they multiply, scales near 1, small offsets."""
    generator = torch.Generator().manual_seed(11)
    for name, value in network.state_dict().items():
        if not value.is_floating_point():
            continue
        noise = torch.randn(value.shape, generator=generator)
        if value.ndim >= 2:
            noise = noise / math.sqrt(max(math.prod(value.shape[1:]), 1))
        elif name.endswith("weight") or name.endswith("scale"):
            noise = 1 + 0.1 * noise
        else:
            noise = 0.1 * noise
        value.copy_(noise)


def build(name: str, dtype: str) -> Any:
    """A model patcher."""
    kind = KINDS[name]
    config = getattr(comfy.supported_models, kind.config)(kind.unet)
    config.set_inference_dtype(DTYPES[dtype], None)
    device = comfy.model_management.get_torch_device()
    model = config.get_model(dict(kind.state), "", device=device)
    with torch.no_grad():
        weights(model.diffusion_model)
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=device)


def conditioning(name: str, seed: int) -> Any:
    kind, generator = KINDS[name], torch.Generator().manual_seed(seed)
    pooled = None if kind.pooled is None else torch.randn(1, kind.pooled, generator=generator)
    options = {"pooled_output": pooled}
    if kind.config.startswith("LTX"):
        options["attention_mask"] = torch.ones(1, 4, dtype=torch.long)
    return [[torch.randn(1, 4, kind.context, generator=generator), options]]


def latent(name: str, batch: int) -> dict[str, Any]:
    shape = KINDS[name].latent
    if isinstance(shape[0], tuple):
        return {"samples": comfy.nested_tensor.NestedTensor([torch.zeros(batch, *part) for part in shape])}
    return {"samples": torch.zeros(batch, *shape)}


def _shape(latent: tuple[Any, ...]) -> str:
    parts = latent if isinstance(latent[0], tuple) else (latent,)
    return " and ".join("×".join(map(str, part)) for part in parts)


class TestKind:
    """MODEL, two CONDITIONINGs, and an empty LATENT."""

    RETURN_TYPES = ("MODEL", "CONDITIONING", "CONDITIONING", "LATENT")
    FUNCTION = "make"
    CATEGORY = "test"
    DESCRIPTION = "\n".join(f"{name}: {kind.config} {_shape(kind.latent)}" for name, kind in KINDS.items())

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"kind": (list(KINDS),), "dtype": (list(DTYPES),), "batch": ("INT", {"default": 1})}}

    def make(self, kind: str, dtype: str, batch: int) -> tuple[Any, ...]:
        return build(kind, dtype), conditioning(kind, 1), conditioning(kind, 2), latent(kind, batch)


def _as_in_newer_hosts() -> None:
    """ComfyUI 0.33 lets a model's latent format turn an empty latent into one of several parts; older ones do not ask it."""
    stock = comfy.sample.fix_empty_latent_channels

    def fix_empty_latent_channels(model: Any, latent_image: Any, *scales: Any) -> Any:
        fixed = stock(model, latent_image, *scales)
        parts = getattr(model.get_model_object("latent_format"), "fix_empty_latent", None)
        return fixed if parts is None or fixed.is_nested or torch.count_nonzero(fixed) else parts(fixed)

    comfy.sample.fix_empty_latent_channels = fix_empty_latent_channels


class TestEmptyVideo:
    """The small LTX with sound, whose latent format adds the sound to an empty video; and an empty video."""

    RETURN_TYPES = ("MODEL", "LATENT")
    FUNCTION = "make"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"model": ("MODEL",)}}

    def make(self, model: Any) -> tuple[Any, ...]:
        video, sound = KINDS["LTX, video and sound"].latent

        def fix_empty_latent(latent: torch.Tensor) -> Any:
            return comfy.nested_tensor.NestedTensor([latent, latent.new_zeros(len(latent), *sound)])

        patched, format_ = model.clone(), copy.copy(model.get_model_object("latent_format"))
        format_.fix_empty_latent = fix_empty_latent
        patched.add_object_patch("latent_format", format_)
        return patched, {"samples": torch.zeros(1, *video)}


class TestControl:
    """A small ControlNet for the small SD 1.5."""

    RETURN_TYPES = ("CONTROL_NET",)
    FUNCTION = "make"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {}}

    def make(self) -> tuple[Any]:
        known = {key: value for key, value in _unet().items() if key not in ("out_channels", "transformer_depth_output")}
        network = comfy.cldm.cldm.ControlNet(**known, hint_channels=3, operations=comfy.ops.manual_cast)
        with torch.no_grad():
            weights(network)
        return (comfy.controlnet.ControlNet(network.eval(), load_device=comfy.model_management.get_torch_device()),)


class Decoder:
    """In place of a VAE: three channels as a picture."""

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents[:, :3].movedim(1, -1).sigmoid()


class TestDecoder:
    """VAE."""

    RETURN_TYPES = ("VAE",)
    FUNCTION = "make"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {}}

    def make(self) -> tuple[Any]:
        return (Decoder(),)


_as_in_newer_hosts()
NODE_CLASS_MAPPINGS = {
    "DodeTestKind": TestKind,
    "DodeTestControl": TestControl,
    "DodeTestDecoder": TestDecoder,
    "DodeTestEmptyVideo": TestEmptyVideo,
}
