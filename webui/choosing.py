"""Which saved parameters a run of the WebUI takes, and why it takes none."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from dode.files.choice import Choice, choose
from dode.files.words import no_levels, none_fit

from . import library
from .guidance import scale_of
from .host import feature, loaded, option, say_once
from .model_info import model_info, prediction_of
from .settings import takes_generic

FALLBACK_SOLVER = "dpmpp_2m"
_FALLBACK_SCHEDULES = {"flow": ("simple", "sgm_uniform", "uniform"), "": ("karras",)}
_asking: ContextVar[Any] = ContextVar("asking", default=None)


@contextmanager
def asked_by(p: Any) -> Iterator[None]:
    """Meanwhile a schedule is asked for this run: the host itself does not say for which."""
    token = _asking.set(p)
    try:
        yield
    finally:
        _asking.reset(token)


def find(model: Any, sigmas: Tensor, extra_args: dict[str, Any]) -> tuple[Choice, str]:
    """The parameters for a run, or none and the reason.

    Args:
        model: what the host gives a sampler.
        sigmas: the noise levels of the run.
        extra_args: what the host passes to the model.
    """
    scale = scale_of(model, extra_args.get("cond_scale", 1.0))
    against = hindrance(model, scale, extra_args)
    if against:
        return Choice(), against
    linker = model.inner_model
    info, largest = model_info(linker.inner_model), float(linker.sigmas[-1])
    asked = {"largest": largest, "both": scale != 1, "generic": takes_generic()}
    choice = choose(library.entries(), info, scale, sigmas.tolist(), **asked)
    if choice.entry is None:
        known = choice.reasons or (f"there are none in {library.own_folder()}",)
        return choice, none_fit(info, len(sigmas) - 1, scale, known)
    return choice, ""


def levels(n: int, sigma_min: float, sigma_max: float, inner_model: Any, device: Any) -> Tensor:
    """The schedule type: the noise levels of the parameters for a run with n steps, (n + 1,); else a usual schedule."""
    p, checkpoint = _asking.get(), getattr(inner_model, "inner_model", None) or loaded()
    info = model_info(checkpoint)
    scale = None
    if p is not None:
        scale = float(getattr(p, "hr_cfg", p.cfg_scale) if getattr(p, "is_hr_pass", False) else p.cfg_scale)
    generic, largest = takes_generic(), float(inner_model.sigmas[-1])
    known = [(name, entry) for name, entry in library.entries() if generic or not entry.fitted_on]
    whole = (entry.parameters.sigmas for _, entry in known)
    grid = next((grid for grid in whole if len(grid) == n + 1 and grid[-1] == 0), None)
    if grid is not None:  # levels of any entry stand for those of the best one with as many steps
        choice = choose(known, info, scale, grid, largest=largest, both=scale != 1, generic=generic)
        if choice.entry is not None:
            return torch.tensor(choice.sigmas, dtype=torch.float32, device=device)
    return _usual(n, sigma_min, sigma_max, inner_model, device, prediction_of(checkpoint))


def _usual(n: int, sigma_min: float, sigma_max: float, inner_model: Any, device: Any, prediction: str) -> Tensor:
    schedules = feature("modules.sd_schedulers").schedulers_map
    names = _FALLBACK_SCHEDULES.get(prediction, _FALLBACK_SCHEDULES[""])
    found = next((schedules[name] for name in names if name in schedules), None)
    if found is None:
        return inner_model.get_sigmas(n).to(device)
    say_once(f"{no_levels(n)}; the schedule {found.label} is used instead.")
    inner = {"inner_model": inner_model} if found.need_inner_model else {}
    return found.function(n=n, sigma_min=sigma_min, sigma_max=sigma_max, device=device, **inner)


def hindrance(model: Any, scale: float, extra_args: dict[str, Any]) -> str:
    """What makes a run one that parameters cannot be for, in words; "" for nothing."""
    p = model.p
    if scale != 1 and max(float(extra_args.get("s_min_uncond") or 0), float(option("s_min_uncond", 0) or 0)) > 0:
        return "Negative Guidance minimum sigma changes the guidance on the way"
    if scale != 1 and float(option("skip_early_cond", 0) or 0) > 0:
        return "the setting Ignore negative prompt during early sampling changes the guidance on the way"
    switch = getattr(p, "refiner_switch_at", None)
    if getattr(p, "refiner_checkpoint_info", None) is not None and switch is not None and switch < 1:
        return "a refiner takes over on the way"
    if getattr(model.inner_model.inner_model, "cond_stage_key", "") == "edit":
        return "this model has two guidance scales"
    return ""
