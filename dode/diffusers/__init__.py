"""diffusers: distilled samplers as a scheduler for its pipelines, and the fit on one. Needs the optional extra ``diffusers``.

pipeline.scheduler = DODEScheduler.from_parameters("mine.safetensors", pipeline.scheduler)
picture = pipeline("a lighthouse", num_inference_steps=6).images[0]
"""

from dode.diffusers.fitting import distill
from dode.diffusers.guidance import DODEGuidance
from dode.diffusers.scheduler import DODEScheduler

__all__ = ["DODEGuidance", "DODEScheduler", "distill"]
