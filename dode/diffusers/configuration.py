"""What a scheduler is made from: parameters, and the configuration of a pipeline's own scheduler."""

import base64
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dode.correction import Parameters
from dode.diffusers.levels import FLOW, WORDS
from dode.errors import ModelError, ParameterError
from dode.files.compatibility import compare
from dode.files.parameter_file import Entry, ModelInfo, ParameterFile, from_bytes, load_parameters, to_bytes
from dode.report import Distillation

Source = str | os.PathLike[str] | ParameterFile | Entry | Parameters | Distillation | Sequence[Entry | Distillation]


def described(scheduler: Any, names: Iterable[str]) -> dict[str, Any]:
    """The fields of these names that a scheduler of diffusers, or its configuration, has.

    Raises:
        ModelError: a prediction type that is not known.
    """
    config: Mapping[str, Any] = scheduler if isinstance(scheduler, Mapping) else scheduler.config
    found = {name: config[name] for name in names if name in config}
    kind = str(config.get("_class_name", "")) if isinstance(scheduler, Mapping) else type(scheduler).__name__
    if "FlowMatch" in kind or config.get("use_flow_sigmas"):
        found |= {"prediction_type": FLOW, "use_flow_sigmas": True}
    if "flow_shift" in config:
        found["shift"] = config["flow_shift"]
    if found.get("prediction_type", "epsilon") not in WORDS:
        raise ModelError(
            f"{kind} has the prediction type {found['prediction_type']!r}; there is support for {', '.join(WORDS)}."
        )
    return found


def encoded(source: Source) -> str:
    """A parameter file's bytes in base64, from the file, its entries, or what a fit gave back; without a host's graph, which
    may hold prompts.

    Raises:
        ParameterFileError: a file that cannot be read. ParameterError: something else.
    """
    if isinstance(source, (str, os.PathLike)):
        content = load_parameters(source)
    elif isinstance(source, ParameterFile):
        content = source
    else:
        parts = source if isinstance(source, (list, tuple)) else [source]
        content = ParameterFile(tuple(_entry(part) for part in parts))
    content = ParameterFile(content.entries, content.author, content.licence, content.notes, content.software)
    return base64.b64encode(to_bytes(content)).decode("ascii")


def _entry(part: Any) -> Entry:
    if isinstance(part, Entry):
        return part
    if isinstance(part, Distillation):
        return Entry(part.parameters, report=part.report)
    if isinstance(part, Parameters):
        return Entry(part)
    raise ParameterError(
        f"A scheduler is made from a parameter file, its entries or what a fit returned, got {type(part).__name__}."
    )


def decoded(text: str, prediction: str) -> tuple[Entry, ...]:
    """The entries in such a text, for a model of diffusers' prediction type.

    Raises:
        ParameterError, FormatError: no such text, or parameters for another kind of model.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ParameterError(f"The configuration's parameters are no base64: {error}.") from error
    entries = from_bytes(data).entries
    flow = prediction == FLOW
    for entry in entries:
        match = compare(entry, ModelInfo(prediction=WORDS[prediction]))
        if not match:
            raise ParameterError(f"These parameters belong to another kind of model: {'; '.join(match.hard)}.")
        if (entry.parameters.coordinate == "flow") != flow:
            kinds = ("flow-matching", "variance-preserving")
            fitted, this = kinds if not flow else kinds[::-1]
            raise ParameterError(f"These parameters were fitted on a {fitted} model, and this is a {this} one.")
    return entries
