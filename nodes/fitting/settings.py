"""What a user sets on Distill Sampler, checked, and in the words of the fits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from dode.errors import FitError
from dode.files.parameter_file import Recipe
from dode.fit.all_numbers import MODES
from dode.methods import get_method
from dode.recipe import NODE, recipe

from ..host import feature, optional
from ..host.latents import is_nested
from .identity import identity_of
from .run import PaperFit, StudentsFit, samples_for
from .sampling_call import Task

# Fit modes, by the names that users see, beside those of dode.fit.all_numbers: the arguments of dode.fit.distill.distill.
CLOSED_FORM: dict[str, dict[str, Any]] = {
    "paper": {"taps": 1},
    "multi-tap": {"taps": 3, "ridge": 1e-3},
}
AS_IN_THE_PAPER = "as in the paper"
BEST_SOLVER = "best of several"
_MOST_SCALES, _MOST_STEP_COUNTS = 16, 16
# Inputs that a recipe holds as they are, in its order.
_IN_RECIPE = (
    "cfg", "solver", "steps", "scheduler", "teacher", "teacher_substeps", "samples", "micro_batch", "seed", "mode",
    "also_steps", "also_cfg", "guard", "prediction", "order",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Settings:
    """The inputs of Distill Sampler, by their names there; of ``sigmas`` and ``vae`` None where nothing is connected.
    ``positive`` holds a conditioning or a prompt set or several of these, ``negative`` a conditioning for all or one for each.
    """

    model: Any
    positive: list[Any]
    latent: dict[str, Any]
    cfg: float
    solver: str
    steps: int
    scheduler: str
    teacher: str
    teacher_substeps: int
    samples: int
    micro_batch: int
    seed: int
    mode: str
    save_as: str
    negative: Sequence[Any] = ()
    sigmas: torch.Tensor | None = None
    also_steps: str = ""
    also_cfg: str = ""
    guard: bool = True
    prediction: str = AS_IN_THE_PAPER
    order: int = 0
    again: bool = False
    vae: Any = None

    @property
    def closed_form(self) -> bool:
        """Whether the mode is one of the paper's fit."""
        return self.mode not in MODES

    @cached_property
    def counts(self) -> list[int]:
        """Further numbers of steps."""
        return _list(self.also_steps, int, 1, 100, "also_steps", _MOST_STEP_COUNTS)

    @cached_property
    def scales(self) -> list[float]:
        """Further guidance scales."""
        return _list(self.also_cfg, float, 0.0, 100.0, "also_cfg", _MOST_SCALES)

    @cached_property
    def prompts(self) -> list[Any]:
        """Conditionings, one for each prompt."""
        return [prompt for each in self.positive for prompt in _as_prompts(each)]

    @property
    def length(self) -> int:
        """How many steps the sampler will have."""
        return self.steps if self.sigmas is None else len(self.sigmas) - 1

    @cached_property
    def method(self) -> str | None:
        """The solver's name; None for the best of several."""
        return None if self.solver == BEST_SOLVER else get_method(self.solver).name

    @cached_property
    def task(self) -> Task:
        """What to fit on.

        Raises:
            FitError: there is no negative prompt, and a guidance scale needs one.
        """
        if not self.negative:
            guided = next((scale for scale in (self.cfg, *self.scales) if scale != 1.0), None)
            if guided is not None:
                instead = "set cfg to 1" if guided == self.cfg else "leave it out of also_cfg"
                raise FitError(f"Guidance {guided:g} needs a negative prompt. Connect one, or {instead}.")
        samples = self.samples or max(len(self.prompts), samples_for(self.mode, self.method, self.length, self.cfg))
        return Task(self.model, self.prompts, self.negative, self.cfg, self.latent, samples, self.micro_batch, self.seed)

    def check(self) -> None:
        """Raises FitError, MethodError for what cannot work, before anything runs."""
        counts, scales = self.counts, self.scales
        if self.sigmas is not None and len(self.sigmas) < 2:
            raise FitError("The connected sigmas hold no step. Connect two noise levels or more, or disconnect them.")
        _ = self.task
        if self.closed_form:
            if counts:
                raise FitError(
                    f"Mode {self.mode} fits for one number of steps. Empty also_steps ({self.also_steps}), or take mode "
                    "balanced."
                )
            if scales:
                raise FitError(
                    f"Mode {self.mode} fits at one guidance. Empty also_cfg ({self.also_cfg}), or take mode balanced."
                )
            return
        if not self.guard:
            raise FitError(f"Mode {self.mode} has no fit without guard. Switch guard on, or take mode paper.")
        if self.prediction != AS_IN_THE_PAPER:
            raise FitError(
                f"Mode {self.mode} chooses what corrections are differences of. Set prediction ({self.prediction}) to "
                f"{AS_IN_THE_PAPER!r}, or take mode paper."
            )
        if self.order:
            raise FitError(f"Mode {self.mode} chooses the order itself. Set order ({self.order}) to 0, or take mode paper.")
        if self.sigmas is not None and counts:
            raise FitError(
                f"The connected sigmas are of {self.length} steps. Disconnect them, or empty also_steps ({self.also_steps})."
            )
        if self.sigmas is not None and float(self.sigmas[-1]) != 0:
            raise FitError(
                f"The connected sigmas do not end at 0 but at {float(self.sigmas[-1]):.4g}, and mode {self.mode} needs an "
                "end at 0. Take mode paper for a part of a grid."
            )

    @property
    def recipe(self) -> Recipe:
        """What it takes to do the fit again."""
        inputs = {name: getattr(self, name) for name in _IN_RECIPE} | {"samples": self.task.samples}
        grid = None if self.sigmas is None else self.sigmas.tolist()
        around = {"sigmas": grid, "prompts": len(self.prompts), **_surroundings(self.model, self.latent)}
        around["identity"] = identity_of(self.model, [self.task.positives, self.task.negatives])
        return recipe(NODE, {**inputs, **around, **CLOSED_FORM.get(self.mode, {})}, self.mode)

    @property
    def wanted(self) -> list[float]:
        """The guidance scale of each entry that the fit makes, in its order."""
        if self.closed_form:
            return [self.cfg]
        fit = self.students
        return [scale for scale in fit.scales for _ in fit.steps]

    @property
    def students(self) -> StudentsFit:
        """The fit in the modes of ``dode.fit.all_numbers``."""
        return StudentsFit(
            mode=self.mode,
            steps=tuple(dict.fromkeys((self.length, *self.counts))),
            scales=tuple(dict.fromkeys((self.cfg, *self.scales))),
            schedule=self._schedule,
            only=self.sigmas is not None,
            solver=self.method,
            teacher=self._teacher,
            substeps=self.teacher_substeps,
        )

    @property
    def paper(self) -> PaperFit:
        """The fit in the modes of ``CLOSED_FORM``."""
        choices = {
            "order": self.order or None,
            "directions": None if self.prediction == AS_IN_THE_PAPER else self.prediction,
            "teacher": self._teacher,
            "substeps": self.teacher_substeps,
        }
        return PaperFit(self.method, {**CLOSED_FORM[self.mode], "guard": self.guard}, choices)

    @property
    def levels(self) -> torch.Tensor:
        """The noise levels that the paper's fit stays on."""
        return self._schedule(self.steps) if self.sigmas is None else self.sigmas

    @property
    def _teacher(self) -> str | None:
        return None if self.teacher == AS_IN_THE_PAPER else self.teacher

    def _schedule(self, steps: int) -> torch.Tensor:
        if self.sigmas is not None:
            return self.sigmas.cpu()
        calculate = feature("comfy.samplers:calculate_sigmas")
        return calculate(self.model.get_model_object("model_sampling"), self.scheduler, steps).cpu()


def one_fit(lists: dict[str, list[Any]]) -> dict[str, Any]:
    """The arguments of ``Settings`` from the host's lists of inputs: of prompts all, of the rest the one that there is.

    Raises:
        FitError: several of what a fit has one of.
    """
    inputs: dict[str, Any] = {name: values for name, values in lists.items() if name in ("positive", "negative")}
    for name, values in lists.items():
        if name in inputs:
            continue
        # Nodes before positive make a latent for each prompt too, all of a shape.
        same = name == "latent" and len({tuple(latent["samples"].shape) for latent in values}) == 1
        if len(values) != 1 and not same:
            raise FitError(
                f"{name} came as a list of {len(values)}, and a fit has one. Lists go into positive and negative; more steps "
                "and guidance scales into also_steps and also_cfg."
            )
        inputs[name] = values[0]
    inputs["negative"] = [each for each in inputs.get("negative", ()) if each is not None]
    return inputs


def _surroundings(model: Any, latent: dict[str, Any]) -> dict[str, Any]:
    """What a recipe says of the host: the latent's shape, patches of the weights (LoRA among them), precision, version."""
    samples = latent["samples"]
    parts = samples.unbind() if is_nested(samples) else [samples]
    dtype = getattr(model, "model_dtype", lambda: None)()
    return {
        "latent": [size for part in parts for size in part.shape[1:]],
        "weight_patches": len(getattr(model, "patches", ())),
        "precision": str(dtype).removeprefix("torch.") if dtype is not None else None,
        "comfyui": optional("comfyui_version:__version__"),
    }


def _list(text: str, kind: Callable[[str], Any], low: float, high: float, name: str, most: int) -> list[Any]:
    """Numbers in a text, with commas or blanks between them."""
    words = text.replace(",", " ").split()
    try:
        values = [kind(word) for word in words]
    except ValueError:
        values = [-1.0]
    if not all(low <= value <= high for value in values) or len(values) > most:
        raise FitError(f"{name} must be up to {most} numbers from {low:g} to {high:g}, such as 4, 8; got {text[:80]!r}.")
    return values


def _as_prompts(positive: Any) -> list[Any]:
    """One conditioning or many: a conditioning is a list of [tensor, options], a prompt set a list of conditionings."""
    many = bool(positive) and isinstance(positive[0], list) and bool(positive[0]) and isinstance(positive[0][0], (list, tuple))
    prompts = list(positive) if many else [positive]
    if not all(prompts):
        raise FitError("The positive conditioning is empty. Connect a prompt or a Prompt Set with at least one line.")
    return prompts
