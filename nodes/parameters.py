"""Load, save and inspect parameters."""

import json
from dataclasses import replace
from typing import Any

from dode.errors import DodeError, ParameterError, ParameterFileError
from dode.files.compatibility import compare
from dode.files.interpolation import interpolate
from dode.files.parameter_file import WORKFLOW_KEYS, Entry, ParameterFile, to_bytes
from dode.files.words import details

from . import library
from .host import CATEGORY, Params, io, optional, send_text
from .host.model_info import model_info
from .page.cards import entry_card
from .page.plot import plot
from .page.text import comparison, warn_of, words
from .sampler import entry_sampler, entry_sigmas


class DODELoad(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="DODELoad",
            display_name="Load D-ODE Parameters",
            category=CATEGORY,
            description="Loads a distilled sampler from models/dode or output/dode: your own, or one that somebody shared.",
            search_aliases=["distilled sampler"],
            inputs=[
                io.Combo.Input("file", options=library.names(), tooltip="A .safetensors file in models/dode or output/dode."),
                io.Int.Input(
                    "steps",
                    default=0,
                    min=0,
                    max=1000,
                    tooltip="Which sampler to take from a file that holds several, by its steps. 0 takes the first that fits.",
                ),
                io.Model.Input(
                    "model", optional=True, tooltip="The model to use it with. Connected, it is checked that both fit."
                ),
                io.Float.Input(
                    "cfg",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    optional=True,
                    tooltip="Guidance scale that you sample with, for a file that was fitted at several: between two of them "
                    "the sampler is interpolated. 0 takes the first that fits.",
                ),
            ],
            outputs=[
                Params.Output(display_name="parameters", tooltip="For D-ODE Sampler, Compare, Inspect and Save."),
                io.Sampler.Output(display_name="sampler", tooltip="For SamplerCustom and SamplerCustomAdvanced."),
                io.Sigmas.Output(display_name="sigmas", tooltip="The noise levels that belong to the sampler."),
                io.String.Output(display_name="info", tooltip="What the file says."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, file: str) -> bool | str:
        """Naming the combo replaces the host's own check, whose message would not say what to do."""
        try:
            library.load(file)
        except DodeError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, file: str, **_: Any) -> str:
        return library.state_of(file)

    @classmethod
    def execute(cls, file: str, steps: int, model: Any = None, cfg: float = 0.0) -> Any:
        content = library.load(file)
        entry = choose(content.entries, steps, model, file, cfg or None)
        match = None if model is None else compare(entry, model_info(model), cfg or None)
        compared = "" if match is None else comparison(match)
        text = "\n".join(filter(None, [words(content), compared, details(entry)]))
        shown = {"kind": "loaded", "file": file, "entries": [entry_card(entry, match)]}
        return io.NodeOutput(entry, entry_sampler(entry), entry_sigmas(entry), text, ui={"dode": (shown,)})


def choose(entries: tuple[Entry, ...], steps: int, model: Any, file: str, guidance: float | None = None) -> Entry:
    """The first entry with this many steps (0: as many as the first has) that fits the model, if there is one to fit.

    With a guidance scale it is the one for that scale.

    Raises:
        ParameterError: none does; the message says what the file is for.
    """
    there = [entry for entry in entries if steps in (0, len(entry.parameters.sigmas) - 1)]
    if not there:
        lengths = sorted({len(entry.parameters.sigmas) - 1 for entry in entries})
        raise ParameterError(f"{file} holds no sampler of {steps} steps. It has: {', '.join(map(str, lengths))}.")
    if model is not None:
        info = model_info(model)
        matches = [compare(entry, info) for entry in there]
        there = [entry for entry, match in zip(there, matches, strict=True) if match]
        if not there:
            why = "; ".join(matches[0].hard)
            raise ParameterError(f"{file} is for another kind of model: {why}. {library.fitting(info)}")
    first = len(there[0].parameters.sigmas)
    entry = interpolate([entry for entry in there if len(entry.parameters.sigmas) == first], guidance)
    if model is not None:
        warn_of(file, compare(entry, model_info(model)))
    return entry


class DODESave(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="DODESave",
            display_name="Save D-ODE Parameters",
            category=CATEGORY,
            description="Writes a distilled sampler to output/dode, with your name and licence, to keep or to share.",
            inputs=[
                Params.Input("parameters", tooltip="From Distill Sampler or Load D-ODE Parameters."),
                io.String.Input(
                    "name", default="my_sampler", tooltip="File name; a taken one gets a number. / makes a subfolder."
                ),
                io.String.Input("author", default="", tooltip="Who made it, if you share it."),
                io.String.Input("licence", default="", tooltip="Under which terms others may use it, such as CC0-1.0."),
                io.String.Input("notes", default="", multiline=True, tooltip="What others should know."),
                io.Boolean.Input(
                    "share_workflow",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Put this workflow into the file, with its prompts; the file dropped on the canvas then opens it. "
                    "Off: the file holds numbers and how they were fitted, and no prompts.",
                ),
            ],
            outputs=[io.String.Output(display_name="path", tooltip="Where the file is.")],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, parameters: Entry, name: str, author: str, licence: str, notes: str, share_workflow: bool = False) -> Any:
        content = library.one(parameters, author=author, licence=licence, notes=notes)
        said = ""
        if share_workflow:
            content, said = _with_workflow(content, cls.hidden)
        path = library.save(content, name)
        send_text(f"Saved as {path}{said}", cls.hidden.unique_id)
        return io.NodeOutput(str(path), ui={"text": (f"{path}{said}",)})


def _with_workflow(content: ParameterFile, hidden: Any) -> tuple[ParameterFile, str]:
    """With the host's graph in it, or why not, in words. The host's switch against such metadata counts here too."""
    if getattr(optional("comfy.cli_args:args"), "disable_metadata", False):
        return content, ", without the workflow: ComfyUI was started with --disable-metadata"
    graph = {"prompt": hidden.prompt, **(hidden.extra_pnginfo or {})}
    shared = {key: json.dumps(graph[key]) for key in WORKFLOW_KEYS if graph.get(key)}
    with_graph = replace(content, workflow=shared)
    try:
        to_bytes(with_graph)
    except ParameterFileError as error:
        return content, f", without the workflow: {error}"
    return with_graph, "" if shared else ", without a workflow: there is none"


class DODEInspect(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="DODEInspect",
            display_name="Inspect D-ODE Parameters",
            category=CATEGORY,
            description="Shows what is in a distilled sampler: for which model, how it was fitted, how much better it is.",
            inputs=[Params.Input("parameters", tooltip="From Distill Sampler or Load D-ODE Parameters.")],
            outputs=[
                io.String.Output(display_name="text", tooltip="Everything it says."),
                io.Image.Output(display_name="plot", tooltip="λ for each step, and the error after each step."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, parameters: Entry) -> Any:
        text, shown = details(parameters), {"kind": "inspected", "entries": [entry_card(parameters)]}
        return io.NodeOutput(text, plot(parameters), ui={"text": (text,), "dode": (shown,)})


NODES = [DODELoad, DODESave, DODEInspect]
