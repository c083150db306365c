"""The names in the WebUI's lists: a sampler and a schedule type. Lists are extended in place, and nothing is replaced."""

from typing import Any

from .choosing import levels
from .guidance import listen
from .host import MissingFeature, feature, say_once
from .sampler import constructor
from .settings import add_settings, enabled

NAME, LABEL = "dode", "D-ODE"


def start() -> bool:
    """Called each time the host loads its scripts, also when only its page starts again. Says whether the names are there."""
    feature("modules.script_callbacks").on_ui_settings(add_settings)
    remove()
    if not enabled():
        return False
    try:
        add()
    except MissingFeature as error:
        remove()
        say_once(f"it is not among the samplers: {error}.")
        return False
    listen()
    return True


def add() -> None:
    """Enter both names.

    Raises:
        MissingFeature: this host keeps its lists in another way.
    """
    kind, data = feature("modules.sd_schedulers:Scheduler"), feature("modules.sd_samplers_common:SamplerData")
    schedules = feature("modules.sd_schedulers")
    schedule = kind(NAME, LABEL, levels, need_inner_model=True)
    schedules.schedulers.append(schedule)
    schedules.schedulers_map.update({NAME: schedule, LABEL: schedule})
    sampler = data(LABEL, constructor(), [f"k_{NAME}"], {"scheduler": NAME})
    samplers = feature("modules.sd_samplers")
    if hasattr(samplers, "add_sampler"):
        samplers.add_sampler(sampler)
    else:
        samplers.all_samplers.append(sampler)
        _list_anew(samplers)
    _forget(samplers)


def remove() -> None:
    """Take both names out again, where they are."""
    schedules, samplers = feature("modules.sd_schedulers"), feature("modules.sd_samplers")
    schedules.schedulers[:] = [each for each in schedules.schedulers if each.name != NAME]
    for key in (NAME, LABEL):
        schedules.schedulers_map.pop(key, None)
    if any(each.name == LABEL for each in samplers.all_samplers):
        samplers.all_samplers[:] = [each for each in samplers.all_samplers if each.name != LABEL]
        _list_anew(samplers)
    _forget(samplers)


def _list_anew(samplers: Any) -> None:
    """What ``add_sampler`` does, for hosts that have none."""
    samplers.all_samplers_map.clear()
    samplers.all_samplers_map.update({each.name: each for each in samplers.all_samplers})
    samplers.set_samplers()


def _forget(samplers: Any) -> None:
    """The host remembers for which names it has already found a sampler and a schedule."""
    clear = getattr(getattr(samplers, "get_sampler_and_scheduler", None), "cache_clear", None)
    if clear is not None:
        clear()
