"""Work inside the host's sampling call: its guider, its memory management, its model patches."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dode.errors import FitError
from dode.fit.held_out import prompt_of_each
from dode.sampling import Guided

from ..host import feature, free_cache, log, out_of_memory
from ..host.guided import start_at, told, with_guidance, without_negative
from ..host.guider import Conditioning, PromptsGuider
from ..host.latents import flat, noise_and_empty, picture_in
from .progress import Progress
from .trial import try_model

KSAMPLER: Any = feature("comfy.samplers:KSAMPLER")
# Wrappers of these keys answer some model calls from earlier ones. A teacher made of such answers teaches nothing.
_STEP_CACHES = ("easycache", "lazycache", "teacache", "fbcache", "wavespeed", "magcache", "taylorseer")
# From a noise level to the list of levels it is one of, or None: the list that the host has filled in.
SigmaList = Callable[[float], Sequence[float] | None]


@dataclass(frozen=True)
class Task:
    """What to fit on: the samples are shared out evenly over the prompts.

    Attributes:
        model: the host's model patcher.
        positives: conditionings, one for each prompt.
        negatives: one for all of them, or one for each; empty where nothing guides.
        cfg: guidance scale.
        latent: an empty latent of the shape to fit at.
        samples: how many noises.
        micro_batch: how many of them the model gets at once.
        seed: of the noises.
    """

    model: Any
    positives: Sequence[Conditioning]
    negatives: Sequence[Conditioning]
    cfg: float
    latent: dict[str, Any]
    samples: int
    micro_batch: int
    seed: int

    @property
    def prompts(self) -> list[int]:
        """For each sample the number of its prompt."""
        return prompt_of_each(self.samples, len(self.positives))

    @property
    def at_once(self) -> int:
        """Samples that the model can get at once: one, where the host samples a video window by window."""
        return 1 if _windows(self.model) is not None else self.micro_batch

    def check(self) -> None:
        """Raises FitError for what cannot work."""
        if getattr(_windows(self.model), "dim", None) == 0:
            raise FitError(
                "The model has context windows over the batch: there a batch is one video, and Distill Sampler fits on many "
                "samples, one in each place of a batch. Connect the model before the windows; sampling with both is fine."
            )
        _refuse_step_caches(self.model)
        _refuse_moving_hooks([*self.positives, *self.negatives])
        if len(self.negatives) not in (0, 1, len(self.positives)):
            raise FitError(
                f"There are {len(self.positives)} prompts and {len(self.negatives)} negative ones. Connect one negative for "
                "all, or as many as prompts."
            )
        if self.samples < max(2, len(self.positives)):
            prompts = len(self.positives)
            raise FitError(f"{prompts} prompts need at least {max(2, prompts)} samples, got {self.samples}.")


@dataclass(frozen=True)
class Inside:
    """What a fit finds inside the host's sampling call.

    Attributes:
        denoiser: ``denoiser(x, sigma, samples)`` takes the numbers of its samples.
        noise: unit noise (N, …) in CPU memory; packed, where a latent has several parts.
        start: ``start(noise, sigma)`` is where the host starts.
        device: where the model wants its input.
    """

    denoiser: Callable[..., Tensor | Guided]
    noise: Tensor
    start: Callable[[Tensor, float], Tensor]
    device: torch.device

    def try_model(self, task: Task, levels: Sequence[float]) -> None:
        """Ask the model before the fit, at two of the noise levels, descending; raises FitError as ``trial.try_model``."""
        first = task.prompts.count(0)  # those of the first prompt
        samples = torch.arange(min(task.at_once, first, 2))

        def start(sigma: float) -> Tensor:
            return self.start(self.noise[samples], sigma).to(self.device)

        def ask(x: Tensor, sigma: float) -> Tensor | Guided:
            return self.denoiser(x, x.new_full((len(x),), sigma), samples[: len(x)])

        try_model(ask, start, levels)


def run_inside(task: Task, sigmas: Tensor, both: bool, sigma_list: SigmaList, progress: Progress, body: Any) -> None:
    """Call ``body(Inside)`` with the model loaded, patched and conditioned, as if it were a sampler on these σ.

    Args:
        both: the denoiser returns both outputs of guidance where there are two.
    """
    noise, empty = noise_and_empty(task.model, task.latent, task.samples, task.seed)
    packed = flat(noise)
    prompt_of = torch.tensor(task.prompts)

    def sampler(model_k: Any, x: Tensor, sigmas: Tensor, extra_args: dict[str, Any], **_: Any) -> Tensor:
        guider = model_k.inner_model
        model = _Halving(with_guidance(model_k, extra_args["model_options"]) if both else model_k)

        def show(x: Tensor) -> None:
            progress.show(picture_in(x, noise))

        denoiser = _denoiser(_Repeatable(model, task.seed), guider, extra_args, prompt_of, sigma_list, show)
        body(Inside(denoiser, packed, lambda part, sigma: start_at(guider, part, sigma), x.device))
        return x

    guider = PromptsGuider(task.model if task.negatives else without_negative(task.model))
    guider.set_prompts(task.positives, task.negatives or task.positives[:1])
    guider.set_cfg(task.cfg)
    # The host reckons memory, and prepares conditionings, for the batch it is given: one micro-batch.
    part = slice(0, min(task.at_once, task.samples))
    guider.sample(noise[part], empty[part], KSAMPLER(sampler), sigmas, disable_pbar=True, seed=task.seed)


class _Halving:
    """The host's model; once it has run out of memory, half as many samples at once. What is fitted does not depend on that.

    It is tried once: a second time the host's exception passes, with the host's own advice.
    """

    def __init__(self, model: Callable[..., Tensor | Guided]):
        self.model, self.most = model, 0

    def __call__(self, x: Tensor, sigma: Tensor, **arguments: Any) -> Tensor | Guided:
        if not self.most:
            try:
                return self.model(x, sigma, **arguments)
            except Exception as error:
                if len(x) < 2 or not out_of_memory(error):
                    raise
            # Outside the handler, whose traceback holds the failed call's memory.
            self.most = (len(x) + 1) // 2
            log.warning("D-ODE: out of memory with %d samples at once; going on with %d at a time.", len(x), self.most)
            free_cache()
        outputs = [self.model(a, b, **arguments) for a, b in zip(x.split(self.most), sigma.split(self.most), strict=True)]
        guided = [output for output in outputs if isinstance(output, Guided)]
        if len(guided) == len(outputs):
            return Guided(*(torch.cat(parts) for parts in zip(*guided, strict=True)))
        return torch.cat([output.denoised if isinstance(output, Guided) else output for output in outputs])


class _Repeatable:
    """A model whose patches draw random numbers, as those that merge tokens do, draws the same ones at every call: else a fit
    would take the differences between two draws for its own doing."""

    def __init__(self, model: Callable[..., Tensor | Guided], seed: int):
        self.model, self.seed = model, seed

    def __call__(self, x: Tensor, sigma: Tensor, **arguments: Any) -> Tensor | Guided:
        torch.manual_seed(self.seed)
        return self.model(x, sigma, **arguments)


def _denoiser(
    model: Callable[..., Tensor | Guided],
    guider: PromptsGuider,
    extra_args: dict[str, Any],
    prompt_of: Tensor,
    sigma_list: SigmaList,
    show: Callable[[Tensor], None],
) -> Callable[..., Tensor | Guided]:
    """The host's model as a denoiser that takes the numbers of its samples.

    A micro-batch is split by prompt, since the host guides a batch by one prompt. Patches find out where in the trajectory
    they are by looking σ up in ``sample_sigmas``; the host filled in one grid, and a fit visits many.
    """

    def denoise(x: Tensor, sigma: Tensor, samples: Tensor) -> Tensor | Guided:
        levels, prompts = sigma_list(float(sigma[0])), prompt_of[samples]
        options = extra_args["model_options"]
        arguments = extra_args if levels is None else {**extra_args, "model_options": told(options, levels, x.device)}
        numbers = prompts.unique().tolist()
        if len(numbers) == 1:
            guider.use(numbers[0])
            output = model(x, sigma, **arguments)
            show(output.denoised if isinstance(output, Guided) else output)
            return output
        parts = [torch.empty_like(x), torch.empty_like(x)]
        filled = 2
        for number in numbers:
            where = (prompts == number).nonzero()[:, 0].to(x.device)
            guider.use(number)
            output = model(x[where], sigma[where], **arguments)
            outputs = tuple(output) if isinstance(output, Guided) else (output,)
            filled = min(filled, len(outputs))
            for part, tensor in zip(parts, outputs, strict=False):
                part[where] = tensor.to(part)
        show(parts[0])
        return Guided(*parts) if filled == 2 else parts[0]

    return denoise


def holds(levels: Sequence[float], sigma: float) -> bool:
    """Whether σ is one of these levels."""
    return any(abs(level - sigma) <= 1e-6 * sigma for level in levels)


def with_level(levels: Sequence[float], sigma: float) -> list[float]:
    """These levels with the one nearest to σ, the last 0 aside, replaced by it: for σ that are still being learned."""
    nearest = min(range(len(levels) - 1), key=lambda i: abs(math.log(levels[i] / sigma)))
    return [*levels[:nearest], sigma, *levels[nearest + 1 :]]


def _windows(model: Any) -> Any:
    """The host's context windows on a model, or None."""
    return model.model_options.get("context_handler")


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


def _refuse_moving_hooks(conditionings: Sequence[Conditioning]) -> None:
    for conditioning in conditionings:
        for _, options in conditioning:
            for hook in getattr(options.get("hooks"), "hooks", ()):
                if getattr(getattr(hook, "hook_keyframe", None), "keyframes", None):
                    raise FitError(
                        "A prompt has hooks with keyframes. ComfyUI moves those forwards only, and a fit goes back and forth "
                        "between noise levels. Distill without the keyframes; sampling with them is fine."
                    )
