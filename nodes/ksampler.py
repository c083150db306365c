"""`dode` in KSampler's lists: a sampler that finds saved parameters by itself, and a scheduler with their noise levels.

Both lists and the module with the samplers are the host's and are shared with other packs: names are appended in place, and
nothing of theirs is replaced.
"""

import json
import logging
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dode.files.choice import Choice, Part, choose, in_reach, part_of
from dode.files.compatibility import compare
from dode.files.parameter_file import Entry
from dode.files.words import no_levels, none_fit, summary, warnings

from . import library
from .host import feature, folder_paths, log, say_changed
from .host.guided import guider_of, has_channel, run_entry, scale_of
from .host.model_info import (
    FALLBACK_SCHEDULER,
    FALLBACK_SCHEDULER_FLOW,
    FALLBACK_SOLVER,
    model_info,
    prediction_of,
    stock_start,
)
from .host.other_levels import on_levels

NAME = "dode"
SETTING, GENERIC = "dode.ksampler", "dode.generic"
_MOST_HANDED = 256
_MOST_ASKED, _MOST_LOOKED_AT = 20, 200  # denoise 0.05; and no more steps than that
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
    return _setting(SETTING) is not False


def takes_generic() -> bool:
    """The user's setting: a file that was fitted on several models is taken for a model that has no other."""
    return _setting(GENERIC) is True


def _setting(name: str) -> Any:
    path = Path(folder_paths.get_user_directory()) / "default" / "comfy.settings.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return settings.get(name) if isinstance(settings, dict) else None


def sample_dode(
    model: Any, x: Tensor, sigmas: Tensor, extra_args: Any = None, callback: Any = None, disable: bool | None = None
) -> Tensor:
    """The saved parameters that fit the model, guidance and σ best; else the host's own DPM-Solver++(2M).

    σ that `dode` as a scheduler handed out, whole or in part, stand for the same part of the levels of whichever entry fits.
    """
    choice = _find(model, sigmas, (extra_args or {}).get("model_options") or {}) if len(sigmas) > 1 else Choice()
    entry = choice.entry
    patcher: Any = getattr(guider_of(model), "model_patcher", None)

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


def _find(model: Any, sigmas: Tensor, options: dict[str, Any]) -> Choice:
    guider = guider_of(model)
    if guider is None:
        _say("sampler", "the model comes from a node that does not say what it is", FALLBACK_SOLVER)
        return Choice()
    patcher = guider.model_patcher
    info, guidance = model_info(patcher), scale_of(guider)
    largest = float(patcher.get_model_object("model_sampling").sigma_max)
    both = has_channel(guider, options)
    asked = {"handed": _handed, "largest": largest, "both": both, "generic": takes_generic()}
    choice = choose(library.entries(), info, guidance, sigmas.tolist(), **asked)
    steps = len(sigmas) - 1
    question = ("sampler", info, guidance, steps, both)
    if choice.entry is None:
        known = choice.reasons or (f"there are none in {library.output_folder()} and models/dode",)
        known += _would_do(choice, patcher.get_model_object("model_sampling"), sigmas.tolist())
        _say(question, f"{none_fit(info, steps, guidance, known)}. Make some with Distill Sampler", FALLBACK_SOLVER)
        return choice
    match = compare(choice.entry, info, guidance)
    uses = f"KSampler uses {choice.name} ({summary(choice.entry)})" + " on its own noise levels" * choice.own_grid
    _say(question, uses, warned=warnings(choice.name, match))
    return choice


def _would_do(choice: Choice, model_sampling: Any, sigmas: list[float]) -> tuple[str, ...]:
    """Where only the end of a usual schedule was asked for: how many steps would be those of a file."""
    steps = len(sigmas) - 1
    for asked in range(steps + 1, min(_MOST_ASKED * steps, _MOST_LOOKED_AT) + 1) if choice.near else ():
        part = part_of(sigmas, _usual(model_sampling, Part(asked, 0, asked)).tolist())
        if part is not None and part.last == asked and not part.forced:
            would = {max(1, round(there * steps / asked)): (name, there) for name, there in reversed(choice.near)}
            would = {number: name for number, (name, there) in would.items() if int(number * asked / steps) == there}
            wanted = "; ".join(f"{number} steps with scheduler dode would use {name}" for number, name in would.items())
            asks = f"{steps} steps at denoise {steps / asked:.2g} ask for {asked}"
            return (f"{asks}; {wanted}",) if wanted else (asks,)
    return ()


def sigmas_dode(model_sampling: Any, steps: int) -> Tensor:
    """The noise levels of saved parameters with this many steps, newest first; else a usual schedule.

    The host asks for σ before it says which model they are for. What it does give, the kind of prediction and the largest
    σ, narrows the choice down. The sampler, which knows the rest, goes over to the levels of whichever entry fits best.
    """
    prediction, largest = prediction_of(model_sampling), float(model_sampling.sigma_max)
    question = ("scheduler", prediction, largest, steps)
    for name, entry in _own_first():
        grid, kind = entry.parameters.sigmas, entry.model.prediction
        if len(grid) - 1 == steps and grid[-1] == 0 and kind in (prediction, "") and in_reach(entry, largest):
            _say(question, f"the scheduler uses the noise levels of {name} ({summary(entry)})")
            if grid in _handed:
                _handed.remove(grid)
            _handed.appendleft(grid)
            return torch.tensor(grid, dtype=torch.float32)
    _say(question, no_levels(steps), _fallback_scheduler(model_sampling))
    return _usual(model_sampling, Part(steps, 0, steps))


def _own_first() -> Iterator[tuple[str, Entry]]:
    """The library's entries, newest file first; those for any model after all others, if the setting takes them."""
    for_any: list[tuple[str, Entry]] = []
    for name, entry in library.entries():
        if entry.fitted_on:
            for_any.append((name, entry))
        else:
            yield name, entry
    if takes_generic():
        yield from for_any


def _usual(model_sampling: Any, part: Part) -> Tensor:
    """A part of the schedule of a kind of model where there are no saved noise levels."""
    levels = feature("comfy.samplers:calculate_sigmas")(model_sampling, _fallback_scheduler(model_sampling), part.steps)
    return levels if part == Part(part.steps, 0, part.steps) else levels.new_tensor(part.of(levels.tolist()))


def _fallback_scheduler(model_sampling: Any) -> str:
    return FALLBACK_SCHEDULER_FLOW if prediction_of(model_sampling) == "flow" else FALLBACK_SCHEDULER


def _say(question: Hashable, text: str, instead: str = "", warned: Sequence[str] = ()) -> None:
    """Say what was chosen, whenever it is something else than the last time."""
    first = (f"{text}; plain {instead} is used instead.", logging.WARNING) if instead else (f"{text}.", logging.INFO)
    say_changed(question, first, *((warning, logging.WARNING) for warning in warned))
