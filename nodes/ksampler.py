"""`dode` in KSampler's lists: a sampler that finds saved parameters by itself, and a scheduler with their noise levels.

Both lists and the module with the samplers are the host's and are shared with other packs: names are appended in place, and
nothing of theirs is replaced.
"""

import json
import logging
from collections import deque
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dode.files.choice import Choice, Part, choose, in_reach
from dode.files.compatibility import compare

from . import library
from .host import feature, folder_paths, log, say_once
from .host.guided import is_plain, run_entry, scale_of
from .host.model_info import (
    FALLBACK_SCHEDULER,
    FALLBACK_SCHEDULER_FLOW,
    FALLBACK_SOLVER,
    model_info,
    prediction_of,
    stock_start,
)
from .host.other_levels import on_levels
from .page.text import summary, warn_of

NAME = "dode"
SETTING = "dode.ksampler"
_MOST_HANDED = 256
# Grids that the scheduler has handed out, newest first: the host may keep them longer than their files are there.
_handed: deque[tuple[float, ...]] = deque(maxlen=_MOST_HANDED)


def register() -> None:
    """Append the two entries, unless the user has switched them off or they are there already.

    Raises:
        MissingFeature: this host keeps its lists in another way.
    """
    if not enabled():
        log.info("D-ODE: the entry `dode` in KSampler is switched off in the settings.")
        return
    samplers = feature("comfy.samplers")
    names, handlers = feature("comfy.samplers:SAMPLER_NAMES"), feature("comfy.samplers:SCHEDULER_HANDLERS")
    schedulers, handler = feature("comfy.samplers:SCHEDULER_NAMES"), feature("comfy.samplers:SchedulerHandler")
    functions = feature("comfy.k_diffusion.sampling")
    if not hasattr(functions, f"sample_{NAME}"):
        setattr(functions, f"sample_{NAME}", sample_dode)
    handlers.setdefault(NAME, handler(sigmas_dode, use_ms=True))
    # Some packs give KSampler lists of its own, so that these may be two lists or one.
    for listed in (names, samplers.KSampler.SAMPLERS, schedulers, samplers.KSampler.SCHEDULERS):
        if NAME not in listed:
            listed.append(NAME)


def enabled() -> bool:
    """The user's setting. Names are in the lists or not from the start on, so a change counts after a restart."""
    path = Path(folder_paths.get_user_directory()) / "default" / "comfy.settings.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return True
    return not isinstance(settings, dict) or settings.get(SETTING) is not False


def sample_dode(
    model: Any, x: Tensor, sigmas: Tensor, extra_args: Any = None, callback: Any = None, disable: bool | None = None
) -> Tensor:
    """The saved parameters that fit the model, guidance and σ best; else the host's own DPM-Solver++(2M).

    σ that `dode` as a scheduler handed out, whole or in part, stand for the same part of the levels of whichever entry fits.
    """
    choice = _find(model, sigmas) if len(sigmas) > 1 else Choice()
    entry = choice.entry
    patcher: Any = getattr(getattr(model, "inner_model", None), "model_patcher", None)

    def run(model: Any, x: Tensor, sigmas: Tensor, extra_args: Any) -> Tensor:
        if entry is None:
            stock = feature(f"comfy.k_diffusion.sampling:sample_{FALLBACK_SOLVER}")
            return stock(model, x, sigmas, extra_args=extra_args, callback=callback, disable=disable)
        sigmas = stock_start(patcher, entry.parameters.method, entry.parameters.order, sigmas)
        return run_entry(entry, model, x, sigmas, extra_args, callback, disable)

    if choice.own_grid:
        return on_levels(run, model, x, sigmas, sigmas.new_tensor(choice.sigmas), extra_args)
    if choice.foreign and choice.part is not None:
        usual = _usual(patcher.get_model_object("model_sampling"), choice.part)
        return on_levels(run, model, x, sigmas, usual.to(sigmas), extra_args)
    return run(model, x, sigmas, extra_args)


def _find(model: Any, sigmas: Tensor) -> Choice:
    guider = getattr(model, "inner_model", None)
    patcher = getattr(guider, "model_patcher", None)
    if patcher is None:
        _say("the model comes from a node that does not say what it is", FALLBACK_SOLVER)
        return Choice()
    info, guidance = model_info(patcher), scale_of(guider)
    largest = float(patcher.get_model_object("model_sampling").sigma_max)
    both = is_plain(guider) and guidance != 1
    choice = choose(library.entries(), info, guidance, sigmas.tolist(), handed=_handed, largest=largest, both=both)
    if choice.entry is None:
        known = "; ".join(choice.reasons) or f"there are none in {library.output_folder()} and models/dode"
        steps, scale = len(sigmas) - 1, "" if guidance is None else f" at guidance {guidance:g}"
        what = f"{info.name or info.family}, {steps} steps{scale}"
        _say(f"no saved parameters fit {what} ({known}). Make some with Distill Sampler", FALLBACK_SOLVER)
        return choice
    _say(f"KSampler uses {choice.name} ({summary(choice.entry)})" + " on its own noise levels" * choice.own_grid)
    warn_of(choice.name, compare(choice.entry, info, guidance))
    return choice


def sigmas_dode(model_sampling: Any, steps: int) -> Tensor:
    """The noise levels of saved parameters with this many steps, newest first; else a usual schedule.

    The host asks for σ before it says which model they are for. What it does give, the kind of prediction and the largest
    σ, narrows the choice down. The sampler, which knows the rest, goes over to the levels of whichever entry fits best.
    """
    prediction, largest = prediction_of(model_sampling), float(model_sampling.sigma_max)
    for name, entry in library.entries():
        grid, kind = entry.parameters.sigmas, entry.model.prediction
        if len(grid) - 1 == steps and grid[-1] == 0 and kind in (prediction, "") and in_reach(entry, largest):
            _say(f"the scheduler uses the noise levels of {name} ({summary(entry)})")
            if grid in _handed:
                _handed.remove(grid)
            _handed.appendleft(grid)
            return torch.tensor(grid, dtype=torch.float32)
    _say(f"no saved parameters bring noise levels for {steps} steps", _fallback_scheduler(model_sampling))
    return _usual(model_sampling, Part(steps, 0, steps))


def _usual(model_sampling: Any, part: Part) -> Tensor:
    """A part of the schedule of a kind of model where there are no saved noise levels."""
    levels = feature("comfy.samplers:calculate_sigmas")(model_sampling, _fallback_scheduler(model_sampling), part.steps)
    return levels if part == Part(part.steps, 0, part.steps) else levels.new_tensor(part.of(levels.tolist()))


def _fallback_scheduler(model_sampling: Any) -> str:
    return FALLBACK_SCHEDULER_FLOW if prediction_of(model_sampling) == "flow" else FALLBACK_SCHEDULER


def _say(text: str, instead: str = "") -> None:
    if instead:
        say_once(f"{text}; plain {instead} is used instead.")
    else:
        say_once(f"{text}.", logging.INFO)
