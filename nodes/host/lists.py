"""The host's lists of names, as they are now: packs add to them, and replace them, until all are loaded and after that."""

from . import feature


def schedulers() -> list[str]:
    """The schedulers that KSampler offers, then those that only the other sampling nodes offer."""
    samplers = feature("comfy.samplers")
    return list(dict.fromkeys([*samplers.KSampler.SCHEDULERS, *samplers.SCHEDULER_NAMES]))
