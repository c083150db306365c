"""The recipe of a fit: what it takes to do it again, as fields of a parameter file.

``tool`` names what did the fit, and the others are its settings by their own names. Where a fit is described by a mode, the
numbers that the mode stands for are there too. Paths are left out but for the files' names: they are nobody's business.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dode.correction import Parameters
from dode.errors import DodeError
from dode.files.parameter_file import Entry, Recipe, RecipeValue
from dode.fit.all_numbers import MODES
from dode.fit.free_parameters import Freedom
from dode.fit.plan import TEACHER_STEPS
from dode.methods import build_tableau
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


def with_start(made_of: Recipe, start: Parameters | None) -> Recipe:
    """A recipe that also says from which undistilled sampler a fit set out; None is the solver on its own noise levels."""
    if start is None:
        return made_of
    named = {"start.solver": start.method, "start.order": start.order, "start.sigmas": start.sigmas}
    return {**made_of, **named}


def start_of(entry: Entry) -> Parameters:
    """The undistilled sampler that an entry is to be compared with: where its fit set out, as its recipe says; where that says
    nothing that can be used, the entry's own solver on its noise levels.

    Example:
        >>> import numpy as np
        >>> found = Parameters("euler", 1, "data", (10.0, 3.0, 1.0, 0.0), np.array([[0.0], [0.1], [0.2]]))
        >>> start_of(Entry(found)).values.ravel()
        array([0., 0., 0.])
    """
    own = entry.parameters
    method, order, sigmas = (entry.recipe.get(f"start.{name}") for name in ("solver", "order", "sigmas"))
    if isinstance(method, str) and isinstance(order, int) and isinstance(sigmas, tuple):
        levels = [level for level in sigmas if isinstance(level, (int, float))]
        with suppress(DodeError):
            return _undistilled(method, order, levels, own.coordinate)
    return replace(own, values=np.zeros_like(own.values), guidance=None, model_sigmas=None)


def _undistilled(method: str, order: int, sigmas: Sequence[float], coordinate: str) -> Parameters:
    base = build_tableau(method, sigmas, order, coordinate)
    zero = np.zeros((len(base.rows), 1))
    return Parameters(method, order, "data" if base.consistent else "noise", tuple(sigmas), zero, coordinate)


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
