"""Distill Sampler: fits a D-ODE sampler on the loaded model."""

import time
from collections.abc import Callable
from typing import Any

import torch

from dode.errors import FitError
from dode.fit.all_numbers import MODES
from dode.fit.cost import cost_text
from dode.fit.paper import FAMILIES
from dode.methods import METHODS, get_method
from dode.recipe import NODE, recipe
from dode.tableau import DIRECTIONS

from . import library
from .fitting.equivalent_steps import measure, words
from .fitting.progress import Place
from .fitting.run import PaperFit, StudentsFit, run_paper, run_students, samples_for
from .fitting.sampling_call import Task
from .fitting.stopping import stoppable
from .host import CATEGORY, Params, Prompts, feature, io, optional
from .host.latents import is_nested
from .page.cards import entry_card, saved_card, workflow_id
from .page.text import gain, stopped_early, summary
from .sampler import entry_sampler, entry_sigmas

# Fit modes, by the names that users see, beside those of dode.fit.all_numbers: the arguments of dode.fit.distill.distill.
CLOSED_FORM: dict[str, dict[str, Any]] = {
    "paper": {"taps": 1},
    "multi-tap": {"taps": 3, "ridge": 1e-3},
}
_PAPER = "as in the paper"
_BEST_SOLVER = "best of several"
_MOST_SCALES, _MOST_STEP_COUNTS = 16, 16
_schedulers = feature("comfy.samplers:SCHEDULER_NAMES")


class DODEDistillSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        solvers = list(METHODS)
        families = [family.name for family in FAMILIES]
        return io.Schema(
            node_id="DODEDistillSampler",
            display_name="Distill Sampler",
            category=CATEGORY,
            description=(
                "Learns a few numbers for each step, so that a solver with few steps lands where many steps land: on your "
                "model, prompts and guidance, without training the model. For a sampler of 4 steps it takes about as long as "
                "75 pictures of 20 steps, for 6 as 125, for 8 as 200. You can stop it early and keep what it has by then."
            ),
            search_aliases=["D-ODE", "few steps", "fast sampler", "distill"],
            inputs=[
                io.Model.Input("model", tooltip="The model to fit on, with LoRAs and patches as you will use it."),
                io.MultiType.Input(
                    "positive",
                    types=[io.Conditioning, Prompts],
                    tooltip="One prompt, or many from a Prompt Set. With many, the result does not depend on one picture.",
                ),
                io.Conditioning.Input(
                    "negative", optional=True, tooltip="The negative prompt. It may stay open where guidance is 1."
                ),
                io.Latent.Input("latent", tooltip="An empty latent of the size you will sample at. Only its shape is used."),
                io.Float.Input(
                    "cfg",
                    default=7.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="Guidance scale, as in KSampler. Fit at the scale you will sample with.",
                ),
                io.Combo.Input(
                    "solver",
                    options=[_BEST_SOLVER, *families, *solvers],
                    default=_BEST_SOLVER,
                    tooltip="The solver to improve. Those with D- are the paper's: "
                    + ", ".join(f"{family.name} improves {family.method}" for family in FAMILIES)
                    + ". In the modes paper and multi-tap, best of several chooses among those with one evaluation a step.",
                ),
                io.Int.Input("steps", default=6, min=1, max=100, tooltip="How many steps the sampler will have."),
                io.Combo.Input(
                    "scheduler",
                    options=[name for name in _schedulers if name != "dode"],
                    default="karras",
                    tooltip="The noise schedule, as in KSampler. In the modes balanced and best it is one of several starts, "
                    "and the noise levels are learned. Not used where sigmas are connected.",
                ),
                io.Combo.Input(
                    "teacher",
                    options=[_PAPER, *solvers],
                    default=_PAPER,
                    tooltip="The solver that runs with many steps to show where the few should land. As in the paper is mostly "
                    "the solver itself, for DPM-Solver and D-EDM euler; in the modes balanced and best it means iPNDM "
                    "with 20 to 40 steps.",
                ),
                io.Int.Input(
                    "teacher_substeps",
                    default=10,
                    min=2,
                    max=100,
                    tooltip="Teacher steps for each step of the sampler; for each of ten steps, in the modes balanced and best "
                    "if you choose a teacher. More is more exact and takes longer.",
                ),
                io.Int.Input(
                    "samples",
                    default=0,
                    min=0,
                    max=4096,
                    tooltip="How many noises to fit on; 0 takes as many as the mode and the steps need. A quarter of them "
                    "judges the result and is not fitted.",
                ),
                io.Int.Input(
                    "micro_batch",
                    default=4,
                    min=1,
                    max=256,
                    tooltip="How many samples the model gets at once. Lower it if memory runs out; the result stays the same.",
                ),
                # Fixed: another seed is another fit, which should not happen behind the user's back.
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=False,
                    tooltip="Of the noises to fit on. Pictures with other seeds are what the result is for.",
                ),
                io.Combo.Input(
                    "mode",
                    options=[*MODES, *CLOSED_FORM],
                    default=next(iter(MODES)),
                    tooltip="balanced: also learns the noise levels and the guidance of each step. best: learns still more and "
                    "takes longer. paper: one number a step, as published, in seconds. multi-tap: three numbers a step.",
                ),
                io.String.Input(
                    "save_as",
                    default="my_sampler",
                    tooltip="Saved under this name in output/dode as soon as it is fitted; a taken name gets a number. "
                    "Leave it empty to save nothing.",
                ),
                io.Sigmas.Input("sigmas", optional=True, tooltip="Your own noise levels, instead of steps and scheduler."),
                io.String.Input(
                    "also_steps",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="More numbers of steps to fit for, such as 4, 8, 12; all go into the same file. Modes balanced and "
                    "best only.",
                ),
                io.String.Input(
                    "also_cfg",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="More guidance scales to fit at, such as 3, 5; all go into the same file, and scales between them "
                    "work too. Each takes half as long as the first. Modes balanced and best only.",
                ),
                io.Boolean.Input(
                    "guard",
                    default=True,
                    optional=True,
                    advanced=True,
                    tooltip="Keep only corrections that help on samples that were not fitted. Off is the fit as published, "
                    "which can come out worse than the plain solver. Modes paper and multi-tap only.",
                ),
                io.Combo.Input(
                    "prediction",
                    options=[_PAPER, *DIRECTIONS],
                    default=_PAPER,
                    optional=True,
                    advanced=True,
                    tooltip="What a correction is a difference of: denoised outputs (data), noise outputs (noise), or what a "
                    "multistep solver combines of those (slopes). As in the paper depends on the solver, and for D-DDIM on the "
                    "model: noise where that predicts noise, else data. Modes paper and multi-tap only.",
                ),
                io.Int.Input(
                    "order",
                    default=0,
                    min=0,
                    max=4,
                    optional=True,
                    advanced=True,
                    tooltip="The solver's order, where it comes in several; 0 is its usual one. Modes paper and multi-tap "
                    "only.",
                ),
            ],
            outputs=[
                Params.Output(
                    display_name="parameters", tooltip="For D-ODE Sampler, Compare, Inspect and Save: those for steps and cfg."
                ),
                io.Sampler.Output(display_name="sampler", tooltip="For SamplerCustom and SamplerCustomAdvanced."),
                io.Sigmas.Output(display_name="sigmas", tooltip="The noise levels that belong to the sampler."),
                io.String.Output(display_name="report", tooltip="What was measured, and where the file is."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        latent: dict[str, Any],
        cfg: float,
        solver: str,
        steps: int,
        scheduler: str,
        teacher: str,
        teacher_substeps: int,
        samples: int,
        micro_batch: int,
        seed: int,
        mode: str,
        save_as: str,
        negative: Any = None,
        sigmas: torch.Tensor | None = None,
        also_steps: str = "",
        also_cfg: str = "",
        guard: bool = True,
        prediction: str = _PAPER,
        order: int = 0,
    ) -> Any:
        place = Place(cls.hidden.unique_id, workflow_id(cls.hidden.extra_pnginfo))
        keep = library.Keeper(save_as)  # says now, not after the fit, that it is no name
        counts = _list(also_steps, int, 1, 100, "also_steps", _MOST_STEP_COUNTS)
        scales = _list(also_cfg, float, 0.0, 100.0, "also_cfg", _MOST_SCALES)
        positives = _as_prompts(positive)
        if negative is None:
            guided = next((scale for scale in (cfg, *scales) if scale != 1.0), None)
            if guided is not None:
                instead = "set cfg to 1" if guided == cfg else "leave it out of also_cfg"
                raise FitError(f"Guidance {guided:g} needs a negative prompt. Connect one, or {instead}.")
            negative = positives[0]  # never looked at: the host leaves it out at guidance 1
        if sigmas is not None and len(sigmas) < 2:
            raise FitError("The connected sigmas hold no step. Connect two noise levels or more, or disconnect them.")
        length = steps if sigmas is None else len(sigmas) - 1
        named = None if solver == _BEST_SOLVER else get_method(solver).name
        samples = samples or max(len(positives), samples_for(mode, named, length, cfg))
        task = Task(model, positives, negative, cfg, latent, samples, micro_batch, seed)
        inputs = {"cfg": cfg, "solver": solver, "steps": steps, "scheduler": scheduler, "teacher": teacher,
                  "teacher_substeps": teacher_substeps, "samples": samples, "micro_batch": micro_batch, "seed": seed,
                  "mode": mode, "also_steps": also_steps, "also_cfg": also_cfg, "guard": guard,
                  "prediction": prediction, "order": order}  # fmt: skip
        grid = None if sigmas is None else sigmas.tolist()
        surroundings = {"sigmas": grid, "prompts": len(positives), **_surroundings(model, latent)}
        made_of = recipe(NODE, {**inputs, **surroundings, **CLOSED_FORM.get(mode, {})}, mode)
        started = time.monotonic()
        if mode in MODES:
            if not guard:
                raise FitError(f"Mode {mode} has no fit without guard. Switch guard on, or take mode paper.")
            if prediction != _PAPER or order:
                raise FitError(
                    f"Mode {mode} chooses prediction and order itself. Set them to {_PAPER!r} and 0, or take mode paper."
                )
            if sigmas is not None and counts:
                raise FitError("Connected sigmas are of one number of steps. Disconnect them, or leave also_steps empty.")
            if sigmas is not None and float(sigmas[-1]) != 0:
                raise FitError("These sigmas do not end at 0, which this mode needs. Take mode paper for a part of a grid.")
            settings = StudentsFit(
                mode=mode,
                steps=tuple(dict.fromkeys((length, *counts))),
                scales=tuple(dict.fromkeys((cfg, *scales))),
                schedule=lambda n: _schedule(model, scheduler, n) if sigmas is None else sigmas.cpu(),
                only=sigmas is not None,
                solver=named,
                teacher=None if teacher == _PAPER else teacher,
                substeps=teacher_substeps,
            )
            with stoppable(place) as asked:
                made = run_students(task, settings, made_of, keep, place, asked)
                worth = measure(task, made.entries[0], made.progress, made.judged)
        else:
            if counts or scales:
                raise FitError(f"Mode {mode} fits for one number of steps and one guidance. Empty also_steps and also_cfg.")
            levels = sigmas if sigmas is not None else _schedule(model, scheduler, steps)
            open_choices = {
                "order": order or None,
                "directions": None if prediction == _PAPER else prediction,
                "teacher": None if teacher == _PAPER else teacher,
                "substeps": teacher_substeps,
            }
            fit = PaperFit(named, {**CLOSED_FORM[mode], "guard": guard}, open_choices)
            made = run_paper(task, levels, fit, made_of, keep, place)
            worth = measure(task, made.entries[0], made.progress)
        entry, spent, seconds = made.entries[0], made.progress.spent, time.monotonic() - started
        lines = [line for each in made.entries for line in (summary(each), gain(each))]
        lines += [words(worth, entry)] if worth else []
        lines += [stopped_early(made.missing)] if made.stopped else []
        prompts = f"{len(positives)} prompt{'s' * (len(positives) > 1)}"
        lines.append(f"{prompts}, {spent.total()} model evaluations in {seconds:.0f} s.")
        lines.append(cost_text(spent))
        lines.append(keep.said())
        report = "\n".join(lines)
        shown = {
            "kind": "distilled",
            "entries": [entry_card(each) for each in made.entries],
            "worth": saved_card(worth),
            "file": library.name_of(keep.path) if keep.path else None,
            "path": str(keep.path) if keep.path else None,
            "problem": keep.said() if keep.problem else None,
            "prompts": len(positives),
            "evaluations": spent.total(),
            "seconds": seconds,
            "stopped": [{"steps": number, "cfg": scale} for number, scale in made.missing] if made.stopped else None,
        }
        ports = (entry, entry_sampler(entry), entry_sigmas(entry), report)
        return io.NodeOutput(*ports, ui={"text": (report,), "dode": (shown,)})


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


def _schedule(model: Any, scheduler: str, steps: int) -> torch.Tensor:
    calculate = feature("comfy.samplers:calculate_sigmas")
    return calculate(model.get_model_object("model_sampling"), scheduler, steps).cpu()


def _as_prompts(positive: Any) -> list[Any]:
    """One conditioning or many: a conditioning is a list of [tensor, options], a prompt set a list of conditionings."""
    many = bool(positive) and isinstance(positive[0], list) and bool(positive[0]) and isinstance(positive[0][0], (list, tuple))
    prompts = list(positive) if many else [positive]
    if not all(prompts):
        raise FitError("The positive conditioning is empty. Connect a prompt or a Prompt Set with at least one line.")
    return prompts


NODES = [DODEDistillSampler]
