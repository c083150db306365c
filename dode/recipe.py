"""The recipe of a fit: what it takes to do it again, as fields of a parameter file.

``tool`` names what did the fit, and the others are its settings by their own names. Where a fit is described by a mode, the
numbers that the mode stands for are there too. Paths are left out but for the files' names: they are nobody's business.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from dode.files.parameter_file import Entry, Recipe, RecipeValue
from dode.fit.all_numbers import MODES
from dode.fit.free_parameters import Freedom
from dode.fit.plan import TEACHER_STEPS
from dode.schedules import SCHEDULES, schedule, usual_schedule
from dode.tableau import Array

COMMAND_LINE = "python -m dode distill"
NODE = "Distill Sampler"
WEBUI = "Distill in Stable Diffusion WebUI"


def recipe(tool: str, settings: Mapping[str, Any], mode: str = "") -> Recipe:
    """A recipe of a tool's settings; what is None, empty or no plain value is left out, and of paths the name is kept."""
    freedom = MODES.get(mode)
    numbers = {} if freedom is None else {f"freedom.{name}": value for name, value in _plain(freedom).items()}
    kept = {name: plain for name, value in settings.items() if (plain := _value(value)) is not None and plain != ""}
    steps = {"teacher_steps": TEACHER_STEPS} if freedom is not None else {}
    return {"tool": tool, **kept, **numbers, **steps, "torch": torch.__version__}


def _plain(freedom: Freedom) -> dict[str, Any]:
    return {name: value for name, value in asdict(freedom).items() if isinstance(value, (int, float, bool))}


def _value(value: Any) -> RecipeValue:
    if isinstance(value, (list, tuple)):
        values: Any = tuple(_value(part) for part in value)
        return values or None
    if isinstance(value, Path):
        return value.name
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, bool)) else None


def was_made_here(entry: Entry) -> bool:
    """Whether the recipe says which noise an entry's claims were measured on, in a way that the command line can repeat."""
    return entry.recipe.get("tool") == COMMAND_LINE


def teacher_grid(entry: Entry) -> Array | tuple[float, ...]:
    """The noise levels that an entry's teacher subdivided: the model's range if the recipe says so, else the base solver's."""
    low, high, steps, name = (entry.recipe.get(k) for k in ("sigma_min", "sigma_max", "teacher_steps", "teacher_schedule"))
    if not (isinstance(low, float) and isinstance(high, float) and isinstance(steps, int) and 0 < steps <= 100):
        return entry.parameters.base().levels
    if isinstance(name, str) and name in SCHEDULES:
        return schedule(name, steps, low, high)
    return usual_schedule(entry.parameters.coordinate, steps, low, high)  # files from before 0.2 do not name it


def recipe_text(value: Any) -> str:
    """A value of a recipe in words."""
    if isinstance(value, tuple):
        return ", ".join(map(recipe_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
