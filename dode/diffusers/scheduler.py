"""Distilled samplers as a scheduler that any pipeline of diffusers takes."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dode.correction import Parameters
from dode.diffusers.configuration import Source, decoded, described, encoded
from dode.diffusers.guidance import DODEGuidance, Watch
from dode.diffusers.levels import Levels
from dode.diffusers.package import imported
from dode.diffusers.selection import Selected, Selection
from dode.errors import GridError, ModelError, ParameterError
from dode.sampling import Guided
from dode.stepper import Stepper
from dode.tableau import Array, Tableau

_configuration = imported("diffusers.configuration_utils")
_scheduling = imported("diffusers.schedulers.scheduling_utils")
SchedulerMixin = _scheduling.SchedulerMixin  # a pipeline that is loaded looks for this name in the module of its scheduler
_OFF_START = 1e-3  # how far from 1 a flow schedule may start without the noise being scaled along


class DODEScheduler(SchedulerMixin, _configuration.ConfigMixin):
    """A distilled sampler as a scheduler of diffusers, from ``from_parameters``.

    Samples are x = x0 + σ n as in diffusers' Euler scheduler, or x = (1 - σ) x0 + σ n for flow matching. Each ``step`` is one
    evaluation of the model; a solver with several evaluations a step has as many timesteps, and ``order`` says how many.

    Args:
        parameters: a parameter file's bytes in base64, so that ``save_pretrained`` writes all there is.
        guidance_scale: with which the pipeline will be called; needed where the file has entries for several. Between two of
            them the numbers are interpolated.
        strength: of the corrections; 0 is the undistilled solver.
        round_timesteps: the model is asked at trained timesteps only, as in ComfyUI. Off, it is asked between them too, as by
            diffusers' Euler scheduler. Flow models are always asked at σ · num_train_timesteps.
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, rescale_betas_zero_snr, prediction_type: of the
            model, as in diffusers' Euler scheduler; prediction_type may be "epsilon", "v_prediction", "sample" or
            "flow_prediction".
        shift, use_dynamic_shifting, base_shift, max_shift, base_image_seq_len, max_image_seq_len, time_shift_type,
            shift_terminal: for ``sigmas`` that a caller passes, as in diffusers' flow-matching Euler scheduler. What was fitted
            has its own noise levels, shifted already.
        use_flow_sigmas: tells pipelines to leave the noise levels to the scheduler.

    Example:
        >>> pipeline.scheduler = DODEScheduler.from_parameters("mine.safetensors", pipeline.scheduler)  # doctest: +SKIP
        >>> picture = pipeline("a lighthouse", num_inference_steps=6).images[0]  # doctest: +SKIP
    """

    order = 1

    @_configuration.register_to_config
    def __init__(
        self,
        parameters: str = "",
        guidance_scale: float | None = None,
        strength: float = 1.0,
        round_timesteps: bool = True,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: list[float] | None = None,
        rescale_betas_zero_snr: bool = False,
        prediction_type: str = "epsilon",
        shift: float = 1.0,
        use_dynamic_shifting: bool = False,
        base_shift: float = 0.5,
        max_shift: float = 1.15,
        base_image_seq_len: int = 256,
        max_image_seq_len: int = 4096,
        time_shift_type: str = "exponential",
        shift_terminal: float | None = None,
        use_flow_sigmas: bool = False,
    ):
        self._levels = Levels(self.config)
        if self._levels.alphas_cumprod is not None:
            self.alphas_cumprod = self._levels.alphas_cumprod
        self._entries = decoded(parameters, prediction_type) if parameters else ()
        self._selection = Selection(self._entries, self._levels, guidance_scale)
        self._watch: Watch | None = None
        self._pair: tuple[Tensor, Tensor] | None = None
        self.num_inference_steps: int | None = None
        self.timesteps, self.sigmas = torch.zeros(0), torch.zeros(0)
        self._selected: Selected | None = None
        self._told: Sequence[float] = ()
        self._restart()

    @classmethod
    def from_parameters(cls, source: Source, scheduler: Any, **options: Any) -> "DODEScheduler":
        """A scheduler from a parameter file, or from what a fit gave back.

        Args:
            source: a file or its path, entries, parameters, or results of ``distill`` or ``distill_students``.
            scheduler: the pipeline's own, which knows how the model was trained.
            options: arguments of ``DODEScheduler`` that are not to be taken from there, such as ``guidance_scale``.

        Raises:
            ParameterFileError: a file that cannot be read. ParameterError: parameters for another kind of model. ModelError: a
            scheduler of a kind that is not known.
        """
        fields = set(cls.__init__.__wrapped__.__annotations__) - {"parameters", *options}
        known = described(scheduler, fields)
        return cls(parameters=encoded(source), **known, **options)

    # What a pipeline asks for.

    @property
    def init_noise_sigma(self) -> float:
        """What a pipeline multiplies unit noise by."""
        return self._levels.start(self._tableau().sigma)

    @property
    def step_index(self) -> int | None:
        """The number of the next evaluation."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """The number of the evaluation that a run begins with, where the pipeline has said it."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Say with which evaluation the run begins: image-to-image leaves out the first ones."""
        self._begin_index = begin_index

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[float] | Array | None = None,
        sigmas: Sequence[float] | Array | None = None,
        mu: float | None = None,
    ) -> None:
        """Choose the sampler for a number of steps, noise levels or timesteps, and begin anew.

        Args:
            num_inference_steps: steps of a sampler in the file.
            device: where ``timesteps`` are to be.
            timesteps, sigmas: those of a sampler in the file, or the last of them. What pipelines pass by themselves for flow
                models, sigmas evenly from 1 to 1/n, stands for n steps.
            mu: the shift that belongs to a resolution, for configurations that shift by it.

        Raises:
            ParameterError: there is no such sampler in the file. GridError: the request cannot be understood.
        """
        if sigmas is not None and timesteps is None:
            selected = self._selection.sigmas(sigmas, mu)
        elif timesteps is not None and sigmas is None:
            selected = self._selection.timesteps(timesteps, self._step_timesteps)
        elif timesteps is None and num_inference_steps is not None:
            selected = self._selection.steps(num_inference_steps)
        else:
            raise GridError("Pass one of num_inference_steps, sigmas and timesteps.")
        self._selected = selected
        tableau = self._tableau()
        told = tableau.model_sigmas or tableau.evaluation_sigmas
        self.num_inference_steps = len(selected.parameters.sigmas) - 1 - selected.first
        self.timesteps = torch.tensor([self._levels.timestep(sigma) for sigma in told], dtype=torch.float32, device=device)
        self.sigmas = torch.tensor([*tableau.evaluation_sigmas, tableau.sigmas[-1]], dtype=torch.float32)
        starts = _starts(tableau)
        each = starts[1] if len(starts) > 1 else 1
        self.order = each if starts == [each * step for step in range(len(starts))] else 1
        self._told = told
        self._restart()

    def scale_model_input(self, sample: Tensor, timestep: float | Tensor | None = None) -> Tensor:
        """A sample (B, …) as the model wants it."""
        scale = self._levels.input_scale(self._told[self._now(timestep)])
        return sample if scale == 1 else sample * scale

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Any = None,
        return_dict: bool = True,
    ) -> Any:
        """Take a model output (B, …) for a sample (B, …), both as the pipeline has them.

        Args:
            generator: not used, since nothing here is random.

        Returns:
            ``prev_sample``, where the model is to be evaluated next, in the sample's dtype; with ``return_dict`` as an
            attribute, else in a tuple.

        Raises:
            ModelError: the parameters weigh both outputs of guidance and there was one. ParameterError: the run begins inside a
            step.
        """
        index = self._now(timestep)
        x = sample.to(torch.promote_types(sample.dtype, torch.float32))
        if self._stepper is None:
            factor = self._factor()
            x = x if factor is None else x * factor
            self._stepper = Stepper(self._tableau(index), x)
        stepper = self._stepper
        if stepper.done:
            raise ParameterError("All steps were taken. Call set_timesteps before another run.")
        told = stepper.sigma
        denoised = self._levels.denoised(model_output, x, told)
        stepper.take(self._guided(denoised, model_output, told) if stepper.tableau.guided else denoised, at=x)
        self._heard()
        self._step_index = index + 1
        found = stepper.x.to(sample.dtype)
        return _scheduling.SchedulerOutput(prev_sample=found) if return_dict else (found,)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Samples (B, …) at the noise levels of timesteps (B,), for image-to-image and inpainting."""
        if self._begin_index is None:
            indices = [self._index_of(timestep) for timestep in timesteps]
        else:
            indices = [self._begin_index if self._step_index is None else self._step_index] * len(timesteps)
        sigma = self.sigmas.to(original_samples)[indices].reshape(-1, *[1] * (original_samples.ndim - 1))
        self._noised = True
        return self._levels.noisy(original_samples, noise, sigma)

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """``add_noise`` under the name that flow-matching pipelines call."""
        return self.add_noise(sample, noise, timestep)

    def __len__(self) -> int:
        return int(self.config["num_train_timesteps"])

    # The guidance channel, and where a flow model starts.

    def attach(self, pipeline: Any) -> "DODEScheduler":
        """Become a pipeline's scheduler, and listen to its network: for parameters that weigh both outputs of guidance, and for
        flow parameters that start below σ = 1, of which a pipeline's own noise knows nothing.

        Raises:
            ModelError: the pipeline has no network under a name that is known.
        """
        self.detach()
        watch = Watch(pipeline, self._factor)
        if not watch.modules:
            raise ModelError(f"{type(pipeline).__name__} has neither a unet nor a transformer to listen to.")
        self._watch = watch
        if hasattr(pipeline, "update_components"):
            pipeline.update_components(scheduler=self)
        else:
            pipeline.scheduler = self
        return self

    def detach(self) -> None:
        """Listen no more."""
        if self._watch is not None:
            self._watch.remove()
        self._watch = None

    def guider(self, guidance_scale: float, **options: Any) -> DODEGuidance:
        """Guidance for a modular pipeline that hands both of its outputs to this scheduler.

        Args:
            guidance_scale, options: as in ``diffusers.guiders.ClassifierFreeGuidance``.
        """
        guider = DODEGuidance(guidance_scale=guidance_scale, **options)
        guider.take = self._take
        return guider

    def _take(self, conditional: Tensor, unconditional: Tensor) -> None:
        self._pair = conditional, unconditional

    def _heard(self) -> None:
        self._pair = None
        if self._watch is not None:
            self._watch.clear()

    def _guided(self, denoised: Tensor, output: Tensor, told: float) -> Guided:
        pair = self._pair
        if pair is None and self._watch is not None:
            pair = self._watch.pair(output)
        if pair is None:
            raise ModelError(
                "These parameters weigh the conditional and the unconditional output, and a scheduler sees neither by itself. "
                "Call scheduler.attach(pipeline), or in a modular pipeline "
                "pipeline.update_components(guider=scheduler.guider(scale)); and use a guidance scale above 1. Or distill "
                "without the guidance channel."
            )
        conditional, unconditional = pair
        return Guided(denoised, (conditional - unconditional).to(denoised.dtype) * self._levels.slope(told))

    def _factor(self) -> float | None:
        """What the pipeline's unit noise is still to be multiplied by, at the first evaluation of a flow model."""
        first = self._stepper is None and self._begin_index in (None, 0) and not self._noised
        if not first or not self._levels.flow or self._selected is None:
            return None
        start = self._tableau().sigma
        if self._watch is None and self._selected.first == 0 and 1 - start > _OFF_START:
            raise ParameterError(
                f"These parameters start at sigma {start:.4g}, and the pipeline's noise is that of sigma 1. Call "
                "scheduler.attach(pipeline), which scales the noise too."
            )
        return start if self._watch is not None and start != 1 else None

    # Where the run is.

    def _restart(self) -> None:
        self._step_index: int | None = None
        self._begin_index: int | None = None
        self._stepper: Stepper | None = None
        self._noised = False
        self._pair = None
        if self._watch is not None:
            self._watch.begin()
        self.__dict__.pop("_whole", None)

    def _now(self, timestep: float | Tensor | None) -> int:
        if not self._told:
            raise GridError("Call set_timesteps first.")
        if self._step_index is None:
            begin = self._begin_index
            self._step_index = begin if begin is not None else 0 if timestep is None else self._index_of(timestep)
        return min(self._step_index, len(self._told) - 1)

    def _index_of(self, timestep: float | Tensor) -> int:
        """The evaluation of a timestep; of several the first with which a step begins."""
        found = np.flatnonzero(np.isclose(self.timesteps.cpu().numpy(), float(timestep), rtol=1e-6, atol=1e-6)).tolist()
        if not found:
            raise GridError(f"{float(timestep):g} is none of the timesteps of this run.")
        starts = _starts(self._whole)
        return next((index for index in found if index in starts), found[0])

    @cached_property
    def _whole(self) -> Tableau:
        if self._selected is None:
            raise GridError("Call set_timesteps first.")
        return self._selected.tableau(self.config["strength"])

    def _tableau(self, index: int = 0) -> Tableau:
        """The table from an evaluation on."""
        whole = self._whole
        if index == 0 or self._selected is None:
            return whole
        starts = _starts(whole)
        if index not in starts:
            raise ParameterError(
                f"A run cannot begin with evaluation {index}: this solver's steps begin with {', '.join(map(str, starts))}."
            )
        parameters = self._selected.parameters
        levels = np.array(parameters.sigmas)
        first = int(np.abs(levels - whole.sigmas[starts.index(index)]).argmin())
        part = Selected(parameters, first).tableau(self.config["strength"])
        if part.evaluations != whole.evaluations - index:
            raise ParameterError(f"{parameters.method!r} takes other stages on a part of its grid; run it from the start.")
        return part

    def _step_timesteps(self, parameters: Parameters) -> list[float]:
        tableau = parameters.tableau(strength=self.config["strength"])
        told = tableau.model_sigmas or tableau.evaluation_sigmas
        return [self._levels.timestep(told[start]) for start in _starts(tableau)]


def _starts(tableau: Tableau) -> list[int]:
    """The number of the evaluation with which each step begins; -1 where a step begins at a level without one."""
    found, evaluated = [0], [tableau.sigma]
    for row in tableau.rows[:-1]:
        if row.evaluate:
            evaluated.append(row.sigma)
        if row.commit:
            found.append(len(evaluated) - 1 if evaluated[-1] == row.sigma else -1)
    return found
