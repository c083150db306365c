"""Demo Model: the embedded model with the outputs of a checkpoint loader, so that everything runs without a download."""

import re
from typing import Any

import torch

from dode.demo.model import SIGMA_DATA, WEIGHTS, EmbeddedModel, context_of, embedded_model
from dode.demo.pictures import CLASSES
from dode.files.fingerprint import fingerprint

from .host import CATEGORY, feature, io

BASE: Any = feature("comfy.supported_models_base:BASE")
LatentFormat: Any = feature("comfy.latent_formats:LatentFormat")
BaseModel: Any = feature("comfy.model_base:BaseModel")
ModelType: Any = feature("comfy.model_base:ModelType")
ModelPatcher: Any = feature("comfy.model_patcher:CoreModelPatcher")
VAE: Any = feature("comfy.sd:VAE")
management: Any = feature("comfy.model_management")


class PictureFormat(LatentFormat):
    """Latents that are the picture itself, red, green and blue in [-1, 1]: previews show them as they are."""

    latent_channels = 3
    spacial_downscale_ratio = 1
    latent_rgb_factors = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


class DemoConfig(BASE):
    """The host's description of the embedded model."""

    dode_family, dode_name, dode_fingerprint = EmbeddedModel.family, EmbeddedModel.name, fingerprint(WEIGHTS)
    unet_config = {"disable_unet_model_creation": True, "dtype": torch.float32}  # noqa: RUF012 (the host's way)
    sampling_settings = {  # noqa: RUF012
        "sigma_min": EmbeddedModel.sigma_min,
        "sigma_max": EmbeddedModel.sigma_max,
        "sigma_data": SIGMA_DATA,
    }
    latent_format = PictureFormat
    memory_usage_factor = 1.0


def demo_model() -> Any:
    """The embedded model as a MODEL."""
    model = BaseModel(DemoConfig(DemoConfig.unet_config), model_type=ModelType.EDM)
    model.diffusion_model = embedded_model().network
    device, offload = management.get_torch_device(), management.unet_offload_device()
    return ModelPatcher(model, load_device=device, offload_device=offload)


class DemoText:
    """The embedded model's text encoder, called as the host calls a CLIP: it knows the names of the classes.

    A text that names several is a blend of them, and one that names none is the null class, as an empty prompt is.
    """

    def tokenize(self, text: str, **_: Any) -> list[str]:
        return re.findall(r"[a-z]+", text.lower())

    def encode_from_tokens_scheduled(self, tokens: list[str], **_: Any) -> Any:
        labels = sorted({CLASSES.index(word) for word in tokens if word in CLASSES})
        context = context_of(torch.tensor(labels)).mean(0, keepdim=True) if labels else torch.zeros(1, 1, len(CLASSES))
        return [[context, {"pooled_output": None}]]

    def clone(self, **_: Any) -> "DemoText":
        return DemoText()


class DODEDemoModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        size = {"min": 16, "max": 128, "step": 4}
        return io.Schema(
            node_id="DODEDemoModel",
            display_name="Demo Model (D-ODE)",
            category=CATEGORY,
            description=(
                "A tiny picture model that comes with the pack, in place of a checkpoint: to try everything in seconds and "
                f"without a download. It draws 32 × 32 pixels and knows the words {', '.join(CLASSES)}."
            ),
            inputs=[
                io.Int.Input("width", default=32, **size, tooltip="In pixels. The model was trained on 32."),
                io.Int.Input("height", default=32, **size, tooltip="In pixels. The model was trained on 32."),
                io.Int.Input("batch_size", default=1, min=1, max=4096, tooltip="How many pictures the latent holds."),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="A real model: any sampler node takes it."),
                io.Clip.Output(display_name="clip", tooltip="For CLIP Text Encode and Prompt Set."),
                io.Vae.Output(display_name="vae", tooltip="For VAE Decode: the latents are the pictures."),
                io.Latent.Output(display_name="latent", tooltip="An empty latent of this size."),
            ],
        )

    @classmethod
    def execute(cls, width: int, height: int, batch_size: int) -> Any:
        empty = torch.zeros(batch_size, EmbeddedModel.channels, height, width)
        vae = VAE(sd={"pixel_space_vae": torch.tensor(1.0)})
        return io.NodeOutput(demo_model(), DemoText(), vae, {"samples": empty})


NODES = [DODEDemoModel]
