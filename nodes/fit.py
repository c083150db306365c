"""Runs the fit inside the host: its guider, its memory management, its model patches."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dode.distill import Distillation, distill, planned_evaluations
from dode.errors import FitError
from dode.methods import build_tableau
from dode.parameter_file import Entry
from dode.teacher import Teacher

from .guider import Conditioning, PromptsGuider
from .host import feature
from .model_info import coordinate_of, model_info, stock_start, with_channels_of
from .progress import Progress

KSAMPLER: Any = feature("comfy.samplers:KSAMPLER")
# Wrappers of these keys answer some model calls from earlier ones. A teacher made of such answers teaches nothing.
_STEP_CACHES = ("easycache", "lazycache", "teacache", "fbcache", "wavespeed", "magcache", "taylorseer")


@dataclass(frozen=True)
class Settings:
    """What the user chose. ``mode`` is the arguments of ``distill`` that make the fit mode."""

    method: str
    mode: dict[str, Any]
    teacher: str
    substeps: int
    samples: int
    micro_batch: int
    seed: int


def run_fit(
    model: Any,
    positives: Sequence[Conditioning],
    negative: Conditioning,
    cfg: float,
    latent: dict[str, Any],
    sigmas: Tensor,
    settings: Settings,
    node_id: str | None = None,
) -> tuple[Entry, float]:
    """Distill on a loaded model.

    The samples are shared out evenly over the prompts. Returns the entry, and the seconds it took.

    Raises:
        FitError: settings that cannot work. The host's own exceptions pass through, interruption among them.
    """
    _refuse_step_caches(model)
    if settings.samples < max(2, len(positives)):
        raise FitError(f"{len(positives)} prompts need at least {max(2, len(positives))} samples, got {settings.samples}.")
    started = time.monotonic()
    info = model_info(model)
    coordinate = coordinate_of(info.prediction)
    teacher = Teacher(settings.teacher, substeps=settings.substeps, coordinate=coordinate)
    grid = stock_start(model, settings.method, None, sigmas).tolist()
    arguments = {
        "method": settings.method,
        "coordinate": coordinate,
        "teacher": teacher,
        "micro_batch": settings.micro_batch,
        "seed": settings.seed,
        **settings.mode,
    }
    progress = Progress(model, node_id, planned_evaluations(grid, samples=settings.samples, **_plan(arguments)))
    noise, empty = _noise(model, latent, settings.samples, settings.seed)
    # In blocks of one prompt, so that a micro-batch seldom holds two.
    prompt_of = torch.arange(settings.samples) * len(positives) // settings.samples
    found: list[Distillation] = []

    def fit(model_k: Any, x: Tensor, sigmas: Tensor, extra_args: dict[str, Any], **_: Any) -> Tensor:
        guider = model_k.inner_model
        ending = KSAMPLER(fit).max_denoise(guider, sigmas)
        start = guider.inner_model.model_sampling.noise_scaling(sigmas[0].cpu(), noise, empty, ending)
        levels = _sigma_lists(arguments, grid, teacher)
        denoiser = _denoiser(model_k, guider, extra_args, prompt_of, levels, progress)
        result = distill(
            denoiser,
            start,
            grid,
            **arguments,
            extra_args=lambda samples: {"samples": samples},
            device=x.device,
            progress=progress,
        )
        progress.finish()
        found.append(result)
        return x

    guider = PromptsGuider(model)
    guider.set_prompts(positives, negative)
    guider.set_cfg(cfg)
    # The host reckons memory, and prepares conditionings, for the batch it is given: one micro-batch.
    part = slice(0, min(settings.micro_batch, settings.samples))
    guider.sample(noise[part], empty[part], KSAMPLER(fit), sigmas, disable_pbar=True, seed=settings.seed)
    result = found[0]
    return Entry(result.parameters, info, float(cfg), result.report), time.monotonic() - started


def _plan(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: arguments[name] for name in ("method", "order", "coordinate", "teacher") if name in arguments}


def _denoiser(
    model_k: Any,
    guider: PromptsGuider,
    extra_args: dict[str, Any],
    prompt_of: Tensor,
    levels: list[list[float]],
    progress: Progress,
) -> Callable[..., Tensor]:
    """The host's model as a denoiser that takes the numbers of its samples.

    A micro-batch is split by prompt, since the host guides a batch by one prompt. Patches find out where in the trajectory
    they are by looking σ up in ``sample_sigmas``; the host filled in the student's grid, where the teacher's σ are not.
    """
    options = extra_args["model_options"]

    def args_on(sigmas: list[float]) -> dict[str, Any]:
        inside = {**options.get("transformer_options", {}), "sample_sigmas": torch.tensor(sigmas, dtype=torch.float32)}
        return {**extra_args, "model_options": {**options, "transformer_options": inside}}

    visited, *teachers = levels
    on_teachers = [args_on(sigmas) for sigmas in teachers]

    def args_at(sigma: float) -> dict[str, Any]:
        if progress.stage != "teacher" and _holds(visited, sigma):
            return extra_args
        return on_teachers[0] if _holds(teachers[0], sigma) else on_teachers[1]

    def denoise(x: Tensor, sigma: Tensor, samples: Tensor) -> Tensor:
        arguments, prompts = args_at(float(sigma[0])), prompt_of[samples]
        parts = torch.empty_like(x)
        for number in prompts.unique().tolist():
            where = (prompts == number).nonzero()[:, 0].to(x.device)
            guider.use(number)
            parts[where] = model_k(x[where], sigma[where], **arguments).to(parts)
        progress.show(parts)
        return parts

    return denoise


def _sigma_lists(arguments: dict[str, Any], grid: list[float], teacher: Teacher) -> list[list[float]]:
    """The noise levels that the student visits, the teacher, and the teacher with half the substeps."""
    student = build_tableau(arguments["method"], grid, arguments.get("order"), arguments["coordinate"])
    visited = list(student.levels)
    return [visited, *(list(each.tableau(visited).levels) for each in (teacher, teacher.halved()))]


def _holds(levels: list[float], sigma: float) -> bool:
    return any(abs(level - sigma) <= 1e-6 * sigma for level in levels)


def _noise(model: Any, latent: dict[str, Any], count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise for ``count`` samples shaped like the latent, and the empty latent to go with it."""
    sample = feature("comfy.sample")
    samples = latent["samples"]
    if getattr(samples, "is_nested", False):
        raise FitError("This latent holds picture and sound together, which Distill Sampler cannot do yet.")
    one = with_channels_of(model, latent, torch.zeros_like(samples[:1]))
    empty = torch.zeros(count, *one.shape[1:])
    return sample.prepare_noise(empty, seed), empty


def _refuse_step_caches(model: Any) -> None:
    inside = model.model_options.get("transformer_options", {})
    keys = {str(key).lower() for key in inside}
    for wrappers in (getattr(model, "wrappers", {}), inside.get("wrappers", {})):
        keys |= {str(key).lower() for kind in wrappers.values() for key in kind}
    for name in _STEP_CACHES:
        if any(name in key for key in keys):
            raise FitError(
                f"The model has a step cache ({name}), which answers part of the model calls from earlier ones, so that the "
                "teacher would be wrong. Connect the model before the cache; sampling with both is fine."
            )
