"""The fit on a pipeline: each evaluation of the model is a call of the pipeline with one step, so that all that it does around
its network, such as adapters, ControlNets and offloading, is part of the model."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dode.diffusers.configuration import described
from dode.diffusers.guidance import Watch
from dode.diffusers.levels import WORDS
from dode.diffusers.prompts import Conditions
from dode.diffusers.scheduler import DODEScheduler
from dode.errors import FitError, ModelError
from dode.files.parameter_file import Entry, ModelInfo
from dode.fit.all_numbers import MODES, distill_students
from dode.fit.held_out import prompt_of_each
from dode.fit.plan import planned, usual_samples
from dode.recipe import recipe
from dode.sampling import Guided

TOOL = "dode.diffusers.distill"
_REQUEST = {"num_inference_steps": 1, "output_type": "latent", "return_dict": False}


def distill(
    pipeline: Any,
    prompts: Sequence[str | Mapping[str, Any]],
    *,
    steps: int | Sequence[int],
    guidance_scale: float | None = None,
    negative_prompt: str | None = None,
    guidance_channel: bool = True,
    mode: str = "balanced",
    samples: int | None = None,
    micro_batch: int = 4,
    held_out: float = 0.25,
    seed: int = 0,
    call: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> list[Entry]:
    """Fit samplers on a pipeline of diffusers, for ``DODEScheduler.from_parameters`` or ``dode.save_parameters``.

    Args:
        pipeline: a text-to-image or text-to-video pipeline with its own scheduler. Both stay as they are.
        prompts: texts, or arguments of the pipeline for one prompt each, such as its embeddings (1, …). From four on, whole
            prompts are held out.
        steps: number of steps, or several, each of which gets a sampler.
        guidance_scale: as the pipeline will be called; its own default if left out.
        negative_prompt: for texts.
        guidance_channel: fit the guidance channel too, where the pipeline asks for both outputs. Such samplers need
            ``DODEScheduler.attach`` or its guider.
        mode, held_out: as in ``dode.distill_students``.
        samples: as many as the fit takes by itself if left out; at least one a prompt, and two.
        micro_batch: samples that the pipeline gets at once.
        seed: of the noises and of the split.
        call: further arguments of the pipeline, such as height and width.
        progress: show the pipeline's progress bar.

    Returns:
        An entry for each number of steps.

    Raises:
        FitError: settings that cannot be. ModelError: a pipeline without a network or a scheduler of a known kind.

    Example:
        >>> found = distill(pipeline, prompts, steps=[4, 6], guidance_scale=7.0)  # doctest: +SKIP
        >>> DODEScheduler.from_parameters(found, pipeline.scheduler).attach(pipeline)  # doctest: +SKIP
    """
    if mode not in MODES:
        raise FitError(f"Unknown mode {mode!r}. Choose one of: {', '.join(MODES)}.")
    if not prompts:
        raise FitError("Give at least one prompt.")
    budgets = [steps] if isinstance(steps, int) else sorted(set(steps))
    given = dict(call or {}) | ({} if guidance_scale is None else {"guidance_scale": guidance_scale})
    scale = guidance_scale if guidance_scale is not None else _default_scale(pipeline)
    if samples is None:
        samples = max(usual_samples(MODES[mode], n, guided=scale is not None and scale > 1) for n in budgets)
    samples = max(samples, len(prompts), 2)
    prompt_of = prompt_of_each(samples, len(prompts))
    with _Questions(pipeline, given, guidance_channel) as model:
        conditions = Conditions(pipeline, prompts, negative_prompt, scale)
        shape, device = model.probe(conditions.of([0]))
        random = torch.Generator().manual_seed(seed)
        noise = torch.stack([torch.randn(shape, generator=random) for _ in range(samples)])
        plan = planned(MODES[mode], samples, budgets, guided=model.guided, held_out=held_out)
        with _bar(model.progress_bar, sum(plan.values()), progress) as bar:
            found = distill_students(
                lambda x, sigma, which: model(x, sigma, conditions.of([prompt_of[i] for i in which.tolist()])),
                noise,
                evaluations=budgets,
                sigma_range=model.scheduler.sigma_range,
                coordinate="flow" if model.scheduler.flow else "log_sigma",
                mode=mode,
                start=model.scheduler.noisy_start,
                held_out=held_out,
                micro_batch=micro_batch,
                extra_args=lambda which: {"which": which},
                device=device,
                seed=seed,
                groups=prompt_of,
                progress=bar,
            )
    prediction = WORDS[model.scheduler.config["prediction_type"]]
    name = Path(str(getattr(pipeline, "name_or_path", "") or type(pipeline).__name__)).name
    info = ModelInfo(name, "", prediction, shape[0] if len(shape) > 2 else None)
    made = recipe(
        TOOL,
        {
            "mode": mode,
            "evaluations": budgets,
            "samples": samples,
            "held_out": held_out,
            "seed": seed,
            "prompts": len(prompts),
            "guidance": scale,
            "shape": shape,
        },
        mode,
    )
    return [Entry(each.parameters, info, scale, each.report, made) for each in found]


class _Question(DODEScheduler):
    """A scheduler of one evaluation, at a noise level that is asked for; the pipeline gets its latents back as they were."""

    level = 1.0
    point: Tensor | None = None
    answer: Tensor | Guided | None = None
    seen: Tensor | None = None
    init_noise_sigma = 1.0  # type: ignore[assignment]

    @property
    def flow(self) -> bool:
        return self._levels.flow

    @property
    def sigma_range(self) -> tuple[float, float]:
        return self._levels.range

    def noisy_start(self, noise: Tensor, sigma: float) -> Tensor:
        return noise * self._levels.start(sigma)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Any = None,
        sigmas: Any = None,
        mu: float | None = None,
    ) -> None:
        self._restart()
        self._told, self._step_index = (self.level,), 0
        self.num_inference_steps = 1
        self.timesteps = torch.tensor([self._levels.timestep(self.level)], dtype=torch.float32, device=device)
        self.sigmas = torch.tensor([self.level, 0.0])

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Any = None,
        return_dict: bool = True,
    ) -> Any:
        # The latents that the pipeline holds may be rounded to its precision.
        x = sample if self.point is None else self.point
        x = x.to(sample.device, torch.promote_types(x.dtype, torch.float32))
        denoised = self._levels.denoised(model_output, x, self.level)
        pair = self._watch.pair(model_output) if self._watch is not None else None
        if pair is None:
            self.answer = denoised
        else:
            difference = (pair[0] - pair[1]).to(denoised.dtype) * self._levels.slope(self.level)
            self.answer = Guided(denoised, difference)
        self._step_index, self.seen = 1, sample
        return (sample,)

    def listen(self, pipeline: Any) -> None:
        watch = Watch(pipeline, lambda: None)
        if not watch.modules:
            raise ModelError(f"{type(pipeline).__name__} has neither a unet nor a transformer to listen to.")
        self._watch = watch


class _Questions:
    """A pipeline as a denoiser, while it is open as a context manager.

    Attributes:
        scheduler: in place of the pipeline's own.
        guided: whether it gives both outputs of guidance.
    """

    def __init__(self, pipeline: Any, call: Mapping[str, Any], both: bool):
        self.pipeline, self.call, self.both = pipeline, call, both
        self.scheduler = _Question(**described(pipeline.scheduler, _FIELDS))
        self.guided = False

    def __enter__(self) -> "_Questions":
        self._own = self.pipeline.scheduler
        self._bars = dict(getattr(self.pipeline, "_progress_bar_config", {}))
        self.pipeline.scheduler = self.scheduler
        if self.both:
            self.scheduler.listen(self.pipeline)
        self.pipeline.set_progress_bar_config(**{**self._bars, "disable": True})
        return self

    def __exit__(self, *_: object) -> None:
        self.scheduler.detach()
        self.pipeline.scheduler = self._own
        self.pipeline.set_progress_bar_config(**self._bars)

    def progress_bar(self, total: int) -> Any:
        """The pipeline's, as its owner has set it up."""
        self.pipeline.set_progress_bar_config(**self._bars)
        bar = self.pipeline.progress_bar(total=total)
        self.pipeline.set_progress_bar_config(**{**self._bars, "disable": True})
        return bar

    def probe(self, condition: Mapping[str, Any]) -> tuple[tuple[int, ...], torch.device]:
        """The shape of one sample's latents, and where they are."""
        self.scheduler.point, self.scheduler.level = None, self.scheduler.sigma_range[1]
        self.pipeline(**condition, **{**self.call, **_REQUEST})
        seen = self.scheduler.seen
        if seen is None:
            raise ModelError(f"{type(self.pipeline).__name__} did not call its scheduler.")
        self.guided, self._dtype = isinstance(self.scheduler.answer, Guided), seen.dtype
        return tuple(seen.shape[1:]), seen.device

    def __call__(self, x: Tensor, sigma: Tensor, condition: Mapping[str, Any]) -> Tensor | Guided:
        scheduler = self.scheduler
        scheduler.point, scheduler.level, scheduler.answer = x, float(sigma[0]), None
        self.pipeline(**condition, **{**self.call, **_REQUEST}, latents=x.to(self._dtype))
        answer = scheduler.answer
        if answer is None:
            raise ModelError(f"{type(self.pipeline).__name__} did not call its scheduler.")
        return answer


class _bar:
    """The pipeline's progress bar over all stages of a fit; use as a context manager."""

    def __init__(self, make: Callable[[int], Any], total: int, shown: bool):
        self._bar = make(total) if shown else None
        self._counts: dict[str, int] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        self._counts[stage] = done
        if self._bar is not None:
            made = sum(self._counts.values())
            self._bar.total = max(self._bar.total, made)
            self._bar.set_description(stage, refresh=False)
            self._bar.update(made - self._bar.n)

    def __enter__(self) -> "_bar":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


_FIELDS = set(DODEScheduler.__init__.__wrapped__.__annotations__) - {"parameters"}


def _default_scale(pipeline: Any) -> float | None:
    parameter = inspect.signature(pipeline.__call__).parameters.get("guidance_scale")
    return float(parameter.default) if parameter is not None and isinstance(parameter.default, (int, float)) else None
