"""Writes a checkpoint with random weights that the hosts take for Stable Diffusion 1.5.

    python -m tests.webui.checkpoint FILE

Its text encoder and VAE have the usual size, which the hosts expect; the U-Net has fewer blocks, so that a fit takes minutes on
a CPU. Names and shapes are those of ComfyUI's own modules.
"""

import importlib
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.comfyui import import_comfy

UNET: dict[str, Any] = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "channel_mult": [1, 1],
    "num_res_blocks": [1, 1],
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "num_heads": 8,
    "context_dim": 768,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "adm_in_channels": None,
    "use_temporal_attention": False,
    "use_checkpoint": False,
    "legacy": False,
}
VAE: dict[str, Any] = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 128,
    "ch_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_resolutions": [],
    "dropout": 0.0,
}


def write(path: Path, seed: int = 0) -> None:
    import_comfy()
    plain = importlib.import_module("comfy.ops").disable_weight_init
    unet = importlib.import_module("comfy.ldm.modules.diffusionmodules.openaimodel").UNetModel
    vae = importlib.import_module("comfy.ldm.models.autoencoder").AutoencoderKL
    transformers = importlib.import_module("transformers")
    text = transformers.CLIPTextConfig(
        vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
    )
    random = torch.Generator().manual_seed(seed)
    weights: dict[str, torch.Tensor] = {}

    def put(prefix: str, module: torch.nn.Module, add: str = "") -> None:
        for name, value in module.state_dict().items():
            whole = f"{prefix}{'' if name.startswith(add) else add}{name}"
            if value.ndim > 1:  # so that what goes through a layer keeps its size, roughly
                weights[whole] = torch.randn(value.shape, generator=random).mul_(0.7 / value[0].numel() ** 0.5).half()
            elif value.is_floating_point():
                weights[whole] = torch.full(value.shape, float(name.endswith("weight"))).half()

    put("model.diffusion_model.", unet(**UNET, operations=plain, dtype=torch.float32, device="cpu"))
    put("first_stage_model.", vae(ddconfig=VAE, embed_dim=4))
    put("cond_stage_model.transformer.", transformers.CLIPTextModel(text), "text_model.")
    weights["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    weights["alphas_cumprod"] = torch.cumprod(1 - betas, 0).float()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
