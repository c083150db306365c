"""Distill Sampler: fits a D-ODE sampler on the loaded model."""

from typing import Any

from dode.fit.all_numbers import MODES
from dode.fit.paper import FAMILIES
from dode.methods import METHODS
from dode.tableau import DIRECTIONS

from . import library
from .fitting.fitted import fit
from .fitting.progress import Place
from .fitting.settings import AS_IN_THE_PAPER, BEST_SOLVER, CLOSED_FORM, Settings, one_fit
from .host import CATEGORY, Params, Prompts, io
from .host.lists import schedulers
from .host.model_info import model_info
from .ksampler import NAME
from .page.cards import workflow_id
from .page.fitted import card, report, reused_card, reused_report
from .page.held_out_pictures import decoder, pictures
from .sampler import entry_sampler, entry_sigmas


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
                    options=[BEST_SOLVER, *families, *solvers],
                    default=BEST_SOLVER,
                    advanced=True,
                    tooltip="The solver to improve. Those with D- are the paper's: "
                    + ", ".join(f"{family.name} improves {family.method}" for family in FAMILIES)
                    + ". In the modes paper and multi-tap, best of several chooses among those with one evaluation a step.",
                ),
                io.Int.Input("steps", default=6, min=1, max=100, tooltip="How many steps the sampler will have."),
                io.Combo.Input(
                    "scheduler",
                    options=[name for name in schedulers() if name != NAME],
                    default="karras",
                    advanced=True,
                    tooltip="The noise schedule, as in KSampler. In the modes balanced and best it is one of several starts, "
                    "and the noise levels are learned. Not used where sigmas are connected.",
                ),
                io.Combo.Input(
                    "teacher",
                    options=[AS_IN_THE_PAPER, *solvers],
                    default=AS_IN_THE_PAPER,
                    advanced=True,
                    tooltip="The solver that runs with many steps to show where the few should land. As in the paper is mostly "
                    "the solver itself, for DPM-Solver and D-EDM euler; in the modes balanced and best it means iPNDM "
                    "with 20 to 40 steps.",
                ),
                io.Int.Input(
                    "teacher_substeps",
                    default=10,
                    min=2,
                    max=100,
                    advanced=True,
                    tooltip="Teacher steps for each step of the sampler; for each of ten steps, in the modes balanced and best "
                    "if you choose a teacher. More is more exact and takes longer.",
                ),
                io.Int.Input(
                    "samples",
                    default=0,
                    min=0,
                    max=4096,
                    advanced=True,
                    tooltip="How many noises to fit on; 0 takes as many as the mode and the steps need. A quarter of them "
                    "judges the result and is not fitted.",
                ),
                io.Int.Input(
                    "micro_batch",
                    default=4,
                    min=1,
                    max=256,
                    advanced=True,
                    tooltip="How many samples the model gets at once. Lower it if memory runs out; the result stays the same.",
                ),
                # Fixed: another seed is another fit, which should not happen behind the user's back.
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=False,
                    advanced=True,
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
                    options=[AS_IN_THE_PAPER, *DIRECTIONS],
                    default=AS_IN_THE_PAPER,
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
                io.Boolean.Input(
                    "again",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Fit even if the same fit was saved under this name before. Off, that one is used again: same "
                    "model with the same LoRAs, same prompts and settings.",
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="Decodes the pictures of two samples that show the result. Without it they are as the preview.",
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
            is_input_list=True,  # a list of conditionings is one fit over many prompts, not a fit for each
        )

    @classmethod
    def execute(cls, **lists: Any) -> Any:
        inputs = one_fit(lists)
        place = Place(cls.hidden.unique_id, workflow_id(cls.hidden.extra_pnginfo))
        keep = library.Keeper(inputs["save_as"])  # says now, not after the fit, that it is no name
        settings = Settings(**inputs)
        settings.check()
        before = (
            None
            if settings.again
            else library.made_before(settings.save_as, settings.recipe, model_info(settings.model), settings.wanted)
        )
        if before is not None:
            entry, text, shown = before[1][0], reused_report(*before), reused_card(*before, len(settings.prompts))
        else:
            decode = decoder(settings.model, settings.vae)
            fitted = fit(settings, keep, place, decode is not None)
            entry, text = fitted.made.entries[0], report(fitted, keep)
            shown = {**card(fitted, keep), "pictures": pictures(fitted, decode, cls)}
        ports = (entry, entry_sampler(entry), entry_sigmas(entry), text)
        return io.NodeOutput(*ports, ui={"text": (text,), "dode": (shown,)})


NODES = [DODEDistillSampler]
