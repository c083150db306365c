"""Adds a sampler the way the big sampler packs do it: into KSampler's list, then the module is reloaded. And a scheduler, by
new lists in place of the host's."""

import importlib

from comfy import samplers
from comfy.k_diffusion import sampling
from comfy.samplers import KSampler


def sample_other(model, x, sigmas, extra_args=None, callback=None, disable=None):
    """Euler, under another name."""
    return sampling.sample_euler(model, x, sigmas, extra_args=extra_args, callback=callback, disable=disable)


KSampler.SAMPLERS.insert(KSampler.SAMPLERS.index("uni_pc_bh2") + 1, "other")
sampling.sample_other = sample_other
importlib.reload(sampling)
samplers.SCHEDULER_HANDLERS["other"] = samplers.SCHEDULER_HANDLERS["normal"]
samplers.SCHEDULER_NAMES = KSampler.SCHEDULERS = list(dict.fromkeys([*samplers.SCHEDULER_NAMES, "other"]))
NODE_CLASS_MAPPINGS = {}
