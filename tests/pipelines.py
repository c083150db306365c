"""Pipelines of diffusers with random networks of a few thousand numbers, from diffusers' own classes."""

import importlib
import warnings
from collections.abc import Callable
from typing import Any

import torch

from tests.comfyui import allow_cpu_only_torch

allow_cpu_only_torch()
with warnings.catch_warnings():  # of packages that diffusers looks for
    warnings.simplefilter("ignore")
    diffusers: Any = importlib.import_module("diffusers")

LENGTH = 5  # tokens of a prompt
CALL = {"output_type": "latent", "return_dict": False}


def embeds(size: int, count: int = 1, seed: int = 0) -> torch.Tensor:
    """Encoded prompts (count, LENGTH, size)."""
    return torch.randn(count, LENGTH, size, generator=torch.Generator().manual_seed(seed))


def _unet(**options: Any) -> Any:
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": 4,
        "cross_attention_dim": 8,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    }
    return diffusers.UNet2DConditionModel(**settings | options).eval()


def _vae(**options: Any) -> Any:
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "block_out_channels": (4,),
        "norm_num_groups": 2,
        "latent_channels": 4,
        "down_block_types": ("DownEncoderBlock2D",),
        "up_block_types": ("UpDecoderBlock2D",),
        "sample_size": 8,
    }
    return diffusers.AutoencoderKL(**settings | options).eval()


def trained(prediction: str = "epsilon", **options: Any) -> dict[str, Any]:
    """The configuration of Stable Diffusion's noise levels."""
    return {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction_type": prediction,
        **options,
    }


def sd15(scheduler: Any = None, prediction: str = "epsilon", kind: str = "StableDiffusionPipeline") -> Any:
    """Stable Diffusion 1.5, or with "v_prediction" 2.1."""
    pipeline = getattr(diffusers, kind)(
        vae=_vae(),
        text_encoder=None,
        tokenizer=None,
        unet=_unet(),
        scheduler=scheduler
        or diffusers.EulerDiscreteScheduler(**trained(prediction), timestep_spacing="leading", steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return _quiet(pipeline)


def sd15_prompt(count: int = 1, seed: int = 0) -> dict[str, Any]:
    return {"prompt_embeds": embeds(8, count, seed), "negative_prompt_embeds": embeds(8, count, seed + 100)}


def _sdxl_unet() -> Any:
    return _unet(addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=6 * 4 + 8)


def sdxl(scheduler: Any = None) -> Any:
    """SDXL."""
    pipeline = diffusers.StableDiffusionXLPipeline(
        vae=_vae(),
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
        unet=_sdxl_unet(),
        scheduler=scheduler or diffusers.EulerDiscreteScheduler(**trained(), timestep_spacing="leading", steps_offset=1),
        add_watermarker=False,
        force_zeros_for_empty_prompt=False,
    )
    # Without a text encoder the pipeline takes the size of its pooled output from the prompt.
    return _quiet(pipeline)


def sdxl_prompt(count: int = 1, seed: int = 0) -> dict[str, Any]:
    pooled = embeds(8, count, seed)[:, 0]
    return {**sd15_prompt(count, seed), "pooled_prompt_embeds": pooled, "negative_pooled_prompt_embeds": -pooled}


def sd3(scheduler: Any = None) -> Any:
    """Stable Diffusion 3."""
    torch.manual_seed(0)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=8,
        caption_projection_dim=16,
        pooled_projection_dim=8,
        out_channels=4,
        pos_embed_max_size=8,
    ).eval()
    pipeline = diffusers.StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=scheduler or diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(),
        **dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3")),
    )
    return _quiet(pipeline)


def flux(scheduler: Any = None, kind: str = "FluxPipeline") -> Any:
    """Flux."""
    torch.manual_seed(0)
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=8,
        pooled_projection_dim=8,
        axes_dims_rope=(2, 2, 4),
    ).eval()
    pipeline = getattr(diffusers, kind)(
        scheduler=scheduler or diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=_vae(shift_factor=0.1),
        transformer=transformer,
        **dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")),
    )
    return _quiet(pipeline)


def flux_prompt(count: int = 1, seed: int = 0) -> dict[str, Any]:
    both = sdxl_prompt(count, seed)
    return {name: both[name] for name in ("prompt_embeds", "pooled_prompt_embeds")}


def wan(scheduler: Any = None) -> Any:
    """Wan 2.1, which makes videos."""
    torch.manual_seed(0)
    transformer = diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=8,
        freq_dim=16,
        ffn_dim=16,
        num_layers=1,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=16,
    ).eval()
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKLWan(
        base_dim=3, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )
    pipeline = diffusers.WanPipeline(
        tokenizer=None,
        text_encoder=None,
        transformer=transformer,
        scheduler=scheduler or diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae.eval(),
    )
    return _quiet(pipeline)


def _quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


# Name, the pipeline, a prompt for it, and how it is called for one small picture.
KINDS: dict[str, tuple[Callable[..., Any], Callable[..., dict[str, Any]], dict[str, Any]]] = {
    "SD 1.5": (sd15, sd15_prompt, {"height": 8, "width": 8, "guidance_scale": 3.0}),
    "SDXL": (sdxl, sdxl_prompt, {"height": 8, "width": 8, "guidance_scale": 3.0}),
    "SD3": (sd3, sdxl_prompt, {"height": 8, "width": 8, "guidance_scale": 3.0}),
    "Flux": (flux, flux_prompt, {"height": 8, "width": 8, "guidance_scale": 3.0}),
    "Wan": (wan, sd15_prompt, {"height": 16, "width": 16, "num_frames": 5, "guidance_scale": 3.0}),
}
