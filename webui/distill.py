"""Distill on the loaded checkpoint: a run of the WebUI's own, whose sampling is the fit.

So prompts, LoRAs, memory and precision are the host's, as they will be when the result is used. The picture that comes out is
the first one of the new sampler.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dode.coordinate import coordinate_of
from dode.errors import FitError
from dode.files.library import Keeper, target_of
from dode.files.parameter_file import Entry
from dode.files.words import gain, summary
from dode.fit.all_numbers import MODES, distill_students
from dode.fit.cost import cost_text
from dode.fit.held_out import prompt_of_each
from dode.fit.plan import planned, usual_samples
from dode.recipe import WEBUI, recipe
from dode.sampling import Guided
from dode.schedules import teacher_schedule

from .choosing import hindrance
from .guidance import both_outputs, scale_of
from .host import feature
from .library import is_taken, own_folder
from .model_info import model_info, prediction_of, sigma_range
from .progress import Progress
from .register import LABEL
from .sampler import moved, run_entry, start_of, tell

_MOST_PICTURES = 4
_MOST_PROMPTS = 64


@dataclass(frozen=True)
class Settings:
    """What to fit.

    Attributes:
        prompts, negative: the samples are shared out evenly over the prompts.
        width, height: of the pictures, in pixels.
        steps, cfg: of the sampler that is fitted.
        mode: one of ``dode.fit.all_numbers.MODES``.
        name: of the file under models/dode; "" saves nothing.
        at_once: samples that the model gets at once.
        seed: of the noises.
    """

    prompts: Sequence[str]
    negative: str = ""
    width: int = 512
    height: int = 512
    steps: int = 6
    cfg: float = 7.0
    mode: str = "balanced"
    name: str = "my_sampler"
    at_once: int = 4
    seed: int = 0


@dataclass
class Fit:
    """A fit, to be set as ``dode_fit`` of a run, whose sampler then calls it in place of sampling.

    Attributes:
        settings: what to fit.
        keep: saves it.
        entry: what came out; None before, and where it was stopped before there was anything.
        guided: the model gave both outputs of guidance.
        progress: what it took.
    """

    settings: Settings
    keep: Keeper
    entry: Entry | None = None
    guided: bool = False
    progress: Progress = field(default_factory=lambda: Progress({}))

    def __call__(self, model: Any, x: Tensor, sigmas: Tensor, extra_args: dict[str, Any]) -> Tensor:
        """Fit on the host's denoiser; returns pictures' latents that the new sampler makes from the run's own noise.

        Raises:
            FitError: settings that cannot work. Other errors of a fit, and the host's own.
        """
        few = list(range(min(len(x), _MOST_PICTURES)))
        try:
            self._fit(model, x, extra_args)
        except feature("modules.sd_samplers_common:InterruptedException"):
            return x[few] * 0
        assert self.entry is not None
        tell(model.p, f"{self.keep.path.name if self.keep.path else 'not saved'}: {summary(self.entry)}")
        own = sigmas.new_tensor(self.entry.parameters.sigmas)
        start = moved(model, x[few], sigmas, own)
        # Without the host's callback, which would set the bar back to these few steps.
        return run_entry(self.entry, model, start, own, _of_samples(extra_args, few), disable=True)

    def _fit(self, model: Any, x: Tensor, extra_args: dict[str, Any]) -> None:
        settings, checkpoint = self.settings, model.inner_model.inner_model
        info, scale = model_info(checkpoint), scale_of(model, extra_args["cond_scale"])
        against = hindrance(model, scale, extra_args)
        if against:
            raise FitError(f"There is no single model and guidance to fit: {against}. Switch that off, and distill again.")
        low, high = sigma_range(checkpoint, model.inner_model)
        coordinate = coordinate_of(prediction_of(checkpoint))
        prompts = len(settings.prompts)
        samples = max(usual_samples(MODES[settings.mode], settings.steps, guided=scale != 1), prompts)
        shape, seeded = (samples, *x.shape[1:]), torch.Generator().manual_seed(settings.seed)
        noise = torch.randn(shape, generator=seeded)
        prompt_of = torch.tensor(prompt_of_each(samples, prompts))
        plan = planned(MODES[settings.mode], samples, [settings.steps], guided=scale != 1)
        self.progress = Progress(plan)

        with both_outputs(model, scale) as both:

            def denoiser(y: Tensor, sigma: Tensor, numbers: Tensor) -> Tensor | Guided:
                model.step = 0  # prompts that change on the way stay at their first: a fit goes back and forth
                out = both(y, sigma, **_of_samples(extra_args, prompt_of[numbers].tolist()))
                self.guided = isinstance(out, Guided)
                return out

            (result,) = distill_students(
                denoiser,
                noise,
                evaluations=[settings.steps],
                sigma_range=(low, high),
                coordinate=coordinate,
                mode=settings.mode,
                start=lambda unit, sigma: unit * start_of(sigma),
                micro_batch=settings.at_once,
                extra_args=lambda numbers: {"numbers": numbers},
                device=x.device,
                seed=settings.seed,
                groups=prompt_of.tolist(),
                progress=self.progress,
                stop=self.progress.stop,
            )
        made_of = {"cfg": scale, "steps": settings.steps, "samples": samples, "micro_batch": settings.at_once}
        made_of |= {"seed": settings.seed, "mode": settings.mode, "prompts": prompts, "latent": list(x.shape[1:])}
        made_of |= {"sigma_min": low, "sigma_max": high, "teacher_schedule": teacher_schedule(coordinate)}
        made_of |= {"stopped_early": True} if self.progress.stopped else {}
        self.entry = Entry(result.parameters, info, scale, result.report, recipe(WEBUI, made_of, settings.mode))
        self.keep([self.entry])

    def said(self) -> str:
        """Several lines: what came out, what it took, and where it is."""
        if self.entry is None:
            return "Stopped before there was anything to keep."
        lines = [summary(self.entry), gain(self.entry)]
        if self.progress.stopped:
            lines.append("Stopped early: the best found so far was kept.")
        if not self.guided and self.entry.guidance != 1:
            lines.append("This WebUI gives only the guided output, so that no change of guidance over the steps was learned.")
        return "\n".join([*lines, cost_text(self.progress.spent), self.keep.said("Give another name, and distill again.")])


def distill(settings: Settings) -> tuple[Any, str]:
    """Fit on the loaded checkpoint; returns the host's ``Processed`` with pictures of the new sampler, and a report.

    Raises:
        FitError: settings that cannot work. ParameterFileError: the name is none. What the host raises passes through.
    """
    if not 1 <= len(settings.prompts) <= _MOST_PROMPTS:
        raise FitError(f"A fit takes 1 to {_MOST_PROMPTS} prompts, one a line; got {len(settings.prompts)}.")
    if settings.mode not in MODES:
        raise FitError(f"Unknown effort {settings.mode!r}. Choose one of: {', '.join(MODES)}.")
    keep = Keeper([target_of(settings.name, own_folder())] if settings.name.strip() else [], is_taken)
    fit = Fit(settings, keep)
    processing = feature("modules.processing")
    p = processing.StableDiffusionProcessingTxt2Img(
        sd_model=feature("modules.shared").sd_model,
        prompt=list(settings.prompts),
        negative_prompt=settings.negative,
        width=settings.width,
        height=settings.height,
        steps=settings.steps,
        cfg_scale=settings.cfg,
        seed=settings.seed,
        sampler_name=LABEL,
        scheduler=LABEL,
        batch_size=len(settings.prompts),
        n_iter=1,
        do_not_save_samples=True,
        do_not_save_grid=True,
    )
    p.dode_fit = fit
    processed = processing.process_images(p)
    return processed, fit.said()


def _of_samples(extra_args: dict[str, Any], numbers: Sequence[int]) -> dict[str, Any]:
    """What the host passes to the model for a batch, for samples with these numbers in it, repeated ones too."""
    conditional: Any = extra_args["cond"]
    other, image, kind = extra_args.get("uncond"), extra_args.get("image_cond"), type(conditional)
    return {
        **extra_args,
        "cond": kind(shape=(len(numbers),), batch=[conditional.batch[i] for i in numbers]),
        "uncond": None if other is None else [other[i] for i in numbers],
        "image_cond": image[list(numbers)] if isinstance(image, Tensor) and len(image) > 1 else image,
    }
