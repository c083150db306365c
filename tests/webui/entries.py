"""Parameters for the stand-ins' model."""

from pathlib import Path

import numpy as np

from dode.correction import Parameters, available_taps
from dode.files.fingerprint import fingerprint
from dode.files.parameter_file import NO_PATCHES, Entry, ModelInfo
from dode.methods import build_tableau
from dode.schedules import schedule
from tests.webui.standins import HIGH, LOW, WebUI


def model_of(web: WebUI) -> ModelInfo:
    """What ComfyUI would write of the stand-in's checkpoint."""
    path = Path(web.model.sd_checkpoint_info.filename)
    found = fingerprint(path)
    if web.kind == "a1111":  # which does not say of channels and LoRAs
        return ModelInfo(path.name, "SD15", "eps", None, found)
    return ModelInfo(path.name, "SD15", "eps", 4, found, NO_PATCHES)


def entry(
    model: ModelInfo,
    steps: int = 6,
    guidance: float | None = 3.0,
    method: str = "dpmpp_2m",
    channel: bool = True,
    strength: float = 1.0,
    top: float = 0.8,
) -> Entry:
    """Made-up numbers of a size that shows: noise levels of its own, λ, and a change of guidance in each row."""
    grid = schedule("karras", steps, LOW * 1.5, HIGH * top)
    base = build_tableau(method, grid)
    taps = available_taps(base)
    values = np.array([[0.1 * strength * (-1) ** row if taps[row] else 0.0] for row in range(len(taps))])
    told = [level * (1.01 if number else 1.0) for number, level in enumerate(base.evaluation_sigmas)]
    weights = np.full((len(taps), 1), 0.2 * strength) if channel else None
    parameters = Parameters(
        method, 2, "data", tuple(grid), values, guidance=weights, model_sigmas=tuple(told) if channel else None
    )
    return Entry(parameters, model, guidance)
