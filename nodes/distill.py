"""Distill Sampler: fits a D-ODE sampler on the loaded model."""

from typing import Any

import torch

from dode.errors import FitError
from dode.methods import METHODS, get_method
from dode.parameter_file import Entry

from . import library
from .fit import Settings, run_fit
from .host import CATEGORY, Params, Prompts, feature, io, send_text
from .sampler import entry_sampler, entry_sigmas
from .text import gain, summary

# Fit modes: names that users see, and the arguments of dode.distill.distill that make them.
MODES: dict[str, dict[str, Any]] = {
    "paper": {"taps": 1},
    "multi-tap": {"taps": 3, "ridge": 1e-3},
}
_OWN_TEACHER = "as in the paper"
_schedulers = feature("comfy.samplers:SCHEDULER_NAMES")


class DODEDistillSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        solvers = list(METHODS)
        return io.Schema(
            node_id="DODEDistillSampler",
            display_name="Distill Sampler",
            category=CATEGORY,
            description=(
                "Learns a few numbers for each step, so that a solver with few steps lands where many steps land: on your "
                "model, prompts and guidance, without training the model. Takes about as long as making a few dozen pictures."
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
                io.Combo.Input("solver", options=solvers, default="dpmpp_2m", tooltip="The solver to improve."),
                io.Int.Input("steps", default=6, min=1, max=100, tooltip="How many steps the sampler will have."),
                io.Combo.Input(
                    "scheduler",
                    options=[name for name in _schedulers if name != "dode"],
                    default="karras",
                    tooltip="The noise schedule, as in KSampler. Not used where sigmas are connected.",
                ),
                io.Combo.Input(
                    "teacher",
                    options=[_OWN_TEACHER, *solvers],
                    default=_OWN_TEACHER,
                    tooltip="The solver that runs with many steps to show where the few should land.",
                ),
                io.Int.Input(
                    "teacher_substeps",
                    default=10,
                    min=2,
                    max=100,
                    tooltip="Teacher steps for each step of the sampler. More is more exact and takes longer.",
                ),
                io.Int.Input(
                    "samples",
                    default=32,
                    min=2,
                    max=4096,
                    tooltip="How many noises to fit on. A quarter of them judges the result and is not fitted.",
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
                    options=list(MODES),
                    default="paper",
                    tooltip="paper: one number a step, as published. multi-tap: three numbers a step; wants more samples.",
                ),
                io.String.Input(
                    "save_as",
                    default="my_sampler",
                    tooltip="Saved under this name in output/dode as soon as it is fitted; a taken name gets a number. "
                    "Leave it empty to save nothing.",
                ),
                io.Sigmas.Input("sigmas", optional=True, tooltip="Your own noise levels, instead of steps and scheduler."),
            ],
            outputs=[
                Params.Output(display_name="parameters", tooltip="For D-ODE Sampler, Compare, Inspect and Save."),
                io.Sampler.Output(display_name="sampler", tooltip="For SamplerCustom and SamplerCustomAdvanced."),
                io.Sigmas.Output(display_name="sigmas", tooltip="The noise levels that belong to the sampler."),
                io.String.Output(display_name="report", tooltip="What was measured, and where the file is."),
            ],
            hidden=[io.Hidden.unique_id],
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
    ) -> Any:
        node_id = cls.hidden.unique_id
        grid = sigmas if sigmas is not None else _schedule(model, scheduler, steps)
        settings = Settings(
            method=solver,
            mode=MODES[mode],
            teacher=get_method(solver).teacher if teacher == _OWN_TEACHER else teacher,
            substeps=teacher_substeps,
            samples=samples,
            micro_batch=micro_batch,
            seed=seed,
        )
        positives = _as_prompts(positive)
        if negative is None:
            if cfg != 1.0:
                raise FitError(f"Guidance {cfg:g} needs a negative prompt. Connect one, or set cfg to 1.")
            negative = positives[0]  # never looked at: the host leaves it out at guidance 1
        entry, seconds = run_fit(model, positives, negative, cfg, latent, grid, settings, node_id)
        # Saved before anything else can go wrong: it took minutes to make.
        saved = library.save(library.one(entry), save_as) if save_as.strip() else None
        report = _report(entry, len(positives), seconds, str(saved) if saved else None)
        send_text(report, node_id)
        return io.NodeOutput(entry, entry_sampler(entry), entry_sigmas(entry), report, ui={"text": (report,)})


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


def _report(entry: Entry, prompts: int, seconds: float, path: str | None) -> str:
    evaluations = sum(entry.report.model_evaluations.values()) if entry.report else 0
    where = f"Saved as {path}" if path else "Not saved: no name was given."
    return "\n".join(
        [
            summary(entry),
            gain(entry),
            f"{prompts} prompt{'s' * (prompts > 1)}, {evaluations} model evaluations in {seconds:.0f} s.",
            where,
        ]
    )


NODES = [DODEDistillSampler]
