"""Parameters as the host's SAMPLER and SIGMAS."""

from typing import Any

import torch
from torch import Tensor

from dode.errors import ParameterError
from dode.files.compatibility import compare
from dode.files.parameter_file import Entry
from dode.files.words import summary

from .host import CATEGORY, Params, feature, io, say_once
from .host.guided import guider_of, run_entry, scale_of
from .host.model_info import model_info, stock_start
from .page.text import warn_of

KSAMPLER: Any = feature("comfy.samplers:KSAMPLER")


def entry_sampler(entry: Entry, strength: float = 1.0) -> Any:
    """A SAMPLER that runs an entry. It looks at the model when it runs, since only then it knows it.

    When run: ParameterError if the parameters are for another kind of model, or for a grid that σ is no part of.
    """

    def sample_dode(model: Any, x: Tensor, sigmas: Tensor, extra_args: Any = None, callback: Any = None, disable: Any = None):
        guider = guider_of(model)
        if guider is None:
            say_once(f"{summary(entry)}: a node between sampler and model does not say what model it is; not checked.")
        else:
            _check(entry, guider)
            sigmas = stock_start(guider.model_patcher, entry.parameters.method, entry.parameters.order, sigmas)
        return run_entry(entry, model, x, sigmas, extra_args, callback, disable, strength)

    return KSAMPLER(sample_dode)


def _check(entry: Entry, guider: Any) -> None:
    """Raises ParameterError if the parameters are for another kind of model, and says in the log what else differs."""
    match = compare(entry, model_info(guider.model_patcher), scale_of(guider))
    if not match:
        raise ParameterError(
            f"These D-ODE parameters ({summary(entry)}) are for another kind of model: {'; '.join(match.hard)}. "
            "Load parameters made for this model, or make some with Distill Sampler."
        )
    warn_of(summary(entry), match)


def entry_sigmas(entry: Entry) -> Tensor:
    """The grid that an entry was fitted on, as the host's SIGMAS."""
    return torch.tensor(entry.parameters.sigmas, dtype=torch.float32)


class DODESampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="DODESampler",
            display_name="D-ODE Sampler",
            category=CATEGORY,
            description="Turns D-ODE parameters into a sampler for SamplerCustom and SamplerCustomAdvanced.",
            search_aliases=["distilled sampler", "dode"],
            inputs=[
                Params.Input("parameters", tooltip="From Distill Sampler or Load D-ODE Parameters."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How much of the learned correction is applied: 0 is the undistilled solver, 1 is as fitted.",
                ),
            ],
            outputs=[io.Sampler.Output(display_name="sampler", tooltip="Costs no more than the solver it was made from.")],
        )

    @classmethod
    def execute(cls, parameters: Entry, strength: float) -> Any:
        return io.NodeOutput(entry_sampler(parameters, strength))


class DODESigmas(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="DODESigmas",
            display_name="D-ODE Sigmas",
            category=CATEGORY,
            description="The noise levels that D-ODE parameters were fitted on. Sample on them, or on a part of them.",
            inputs=[Params.Input("parameters", tooltip="From Distill Sampler or Load D-ODE Parameters.")],
            outputs=[io.Sigmas.Output(display_name="sigmas", tooltip="For SamplerCustom and SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls, parameters: Entry) -> Any:
        return io.NodeOutput(entry_sigmas(parameters))


NODES = [DODESampler, DODESigmas]
