"""The parameter file: distilled samplers as safetensors that can be shared. ``docs/format.md`` is the format's description.

Reading runs no code and believes nothing: sizes, names, shapes, types and ranges are checked before anything is built, and
every sampler is built once, so that what is read can be used. A reader ignores JSON fields it does not know, so fields can be
added without a new version.
"""

import contextlib
import json
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from dode.correction import Parameters
from dode.errors import DodeError, FileExistsAlready, ForeignFileError, FormatError, ParameterFileError, VersionError
from dode.files import atomic_write
from dode.files.bounded_json import MAX_NUMBER, MAX_TEXT, Fields, check_text, parse_object, printable
from dode.files.safetensors_container import Container, opened, packed
from dode.report import Report
from dode.tableau import Array
from dode.teacher import Teacher
from dode.version import __version__

FORMAT = "dode-parameters"
FORMAT_VERSION = "2"
READABLE_VERSIONS = ("1", "2")
MAX_ENTRIES = 256
MAX_ROWS = 1024  # in all entries together
MAX_VALUE = 1e6
MAX_SIGMA = 1e6
MAX_STAGES = 16
MAX_RECIPE, MAX_RECIPE_NAME, MAX_RECIPE_LIST = 64, 64, 1024
WORKFLOW_KEYS = ("workflow", "prompt")
_DIMENSIONS = {"sigmas": 1, "values": 2, "guidance": 2, "model_sigmas": 1}
_LEVELS = ("sigmas", "model_sigmas")
_OPTIONAL = ("guidance", "model_sigmas")  # from version 2 on
_WORDS = ("author", "licence", "notes")
NO_PATCHES = "none"

RecipeValue = str | float | int | bool | None | Sequence[float] | Sequence[str]
Recipe = Mapping[str, RecipeValue]


@dataclass(frozen=True)
class ModelInfo:
    """The model that parameters were fitted on.

    Attributes:
        name: what a person calls it, such as the checkpoint's file name.
        family: architecture class.
        prediction: "eps", "v", "edm", "flow" or another short word.
        channels: channels of the latent.
        fingerprint: of the checkpoint's weights.
        patches: of what is put on those weights, such as LoRAs and merges and how strong they are: a short text that is the
            same for the same ones, ``NO_PATCHES`` where there are none, "" where it is not known.

    Example:
        >>> ModelInfo(name="dreams.safetensors", family="SD15", prediction="eps", channels=4).prediction
        'eps'
    """

    name: str = ""
    family: str = ""
    prediction: str = ""
    channels: int | None = None
    fingerprint: str = ""
    patches: str = ""


@dataclass(frozen=True, eq=False)
class Entry:
    """One distilled sampler and where it comes from.

    Attributes:
        parameters: the sampler.
        model: the model it was fitted on.
        guidance: classifier-free guidance scale while fitting; 1 is none, missing is unknown.
        report: what was measured while fitting.
        recipe: what it takes to do the fit again, by name: texts, numbers, and lists of either. ``dode.recipe`` fills it.

    Example:
        >>> parameters = Parameters("euler", 1, "data", (10.0, 1.0, 0.0), [[0.0], [0.1]])
        >>> Entry(parameters, ModelInfo("my_model.safetensors"), guidance=3.0).evaluations
        2
    """

    parameters: Parameters
    model: ModelInfo = field(default_factory=ModelInfo)
    guidance: float | None = None
    report: Report | None = None
    recipe: Recipe = field(default_factory=dict)

    @property
    def evaluations(self) -> int:
        """Evaluations of the model per sample (NFE)."""
        return self.parameters.base().evaluations

    @property
    def fitted_on(self) -> tuple[str, ...]:
        """The models that it was fitted on together, for models that have no sampler of their own; empty for one model."""
        models = self.recipe.get("models", ())
        return tuple(map(str, models)) if isinstance(models, list | tuple) else ()


@dataclass(frozen=True, eq=False)
class ParameterFile:
    """What a parameter file holds: entries, and words about them.

    Attributes:
        entries: the samplers.
        author, licence, notes, software: who made it, under which terms it may be used, what else to know, and with what.
        workflow: what a host writes of its graph, "workflow" and "prompt". It holds prompts: empty unless a user asked for it.

    Example:
        >>> parameters = Parameters("euler", 1, "data", (10.0, 1.0, 0.0), [[0.0], [0.1]])
        >>> ParameterFile((Entry(parameters),), author="me", licence="CC0-1.0").author
        'me'
    """

    entries: tuple[Entry, ...]
    author: str = ""
    licence: str = ""
    notes: str = ""
    software: str = f"dode {__version__}"
    workflow: Mapping[str, str] = field(default_factory=dict)


def save_parameters(path: str | os.PathLike[str], content: ParameterFile | Sequence[Entry], *, overwrite: bool = False) -> Path:
    """Write a parameter file, whole or not at all, and onto the disk.

    Args:
        path: must end in .safetensors; missing folders are made.
        content: a file, or just its entries.
        overwrite: replace a file of that name.

    Raises:
        FileExistsAlready: there is a file of that name and ``overwrite`` is off.
        ParameterFileError: the content breaks a limit of the format, or the disk refuses.

    Example:
        >>> import tempfile
        >>> entry = Entry(Parameters("euler", 1, "data", (10.0, 1.0, 0.0), [[0.0], [0.1]]))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_parameters(f"{folder}/mine.safetensors", [entry]).name
        'mine.safetensors'
    """
    target = Path(path)
    check_name(target)
    data = to_bytes(content if isinstance(content, ParameterFile) else ParameterFile(tuple(content)))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        atomic_write.write(target, data, overwrite=overwrite)
    except OSError as error:
        if isinstance(error, FileExistsError) and os.path.lexists(target) and not overwrite:
            raise FileExistsAlready(f"{target} exists already. Choose another name, or ask to overwrite it.") from error
        raise ParameterFileError(f"{target} could not be written: {error.strerror or error}. Nothing was changed.") from error
    return target


def check_name(path: Path) -> None:
    """Raises ParameterFileError for a file name that is none of a parameter file."""
    if path.suffix != ".safetensors":
        raise ParameterFileError(f"A parameter file's name must end in .safetensors, got {path.name!r}.")


def check_words(content: ParameterFile) -> None:
    """Raises ParameterFileError for words that cannot be stored: to be called before a fit, not after it."""
    for name in _WORDS:
        if len(getattr(content, name)) > MAX_TEXT:
            raise ParameterFileError(f"This cannot be stored: {name} must be a text of at most {MAX_TEXT} characters.")


def check_capacity(rows: Sequence[int]) -> None:
    """Raises ParameterFileError where no file holds samplers of so many rows each: to be called before a fit, not after it."""
    if len(rows) > MAX_ENTRIES or sum(rows) > MAX_ROWS:
        raise ParameterFileError(
            f"A file holds at most {MAX_ENTRIES} samplers with {MAX_ROWS} rows in all; these would be {len(rows)} with "
            f"{sum(rows)}. Fit fewer step counts or guidance scales at a time."
        )


def save_numbered(path: Path, content: ParameterFile, taken: Callable[[Path], bool] | None = None) -> Path:
    """``save_parameters`` under this name, or if it is taken with a number after it: nothing is ever overwritten.

    Args:
        taken: whether a name stands for something else already, beside what is there.
    """
    number, target = 1, path
    while True:
        if taken is None or not taken(target):
            with contextlib.suppress(FileExistsAlready):
                return save_parameters(target, content)
        number += 1
        target = path.with_name(f"{path.stem}_{number:05}{path.suffix}")


def load_parameters(path: str | os.PathLike[str]) -> ParameterFile:
    """Read a parameter file. Of a file that is too large, or of another kind, no more is read than it takes to know.

    Raises:
        FormatError: not a parameter file, or broken; the message names the field. VersionError: made by a newer software.
        ParameterFileError: it cannot be read at all.

    Example:
        >>> import tempfile
        >>> entry = Entry(Parameters("euler", 1, "data", (10.0, 1.0, 0.0), [[0.0], [0.1]]))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save_parameters(f"{folder}/mine.safetensors", [entry])
        ...     found = load_parameters(path)
        >>> found.entries[0].parameters.values.tolist()
        [[0.0], [0.1]]
    """
    target = Path(path)
    try:
        # Without waiting: a pipe that nobody writes to would block here.
        descriptor = os.open(target, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
        with open(descriptor, "rb", buffering=0) as stream:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ParameterFileError(f"{target} could not be read: it is no regular file.")
            return _content(Container(stream, status.st_size))
    except OSError as error:
        raise ParameterFileError(f"{target} could not be read: {error.strerror or error}.") from error
    except (FormatError, VersionError) as error:
        raise type(error)(f"{target}: {error}") from error


def from_bytes(data: bytes) -> ParameterFile:
    """Read a file's bytes; the checks of ``load_parameters``."""
    return _content(opened(data))


def to_bytes(content: ParameterFile) -> bytes:
    """The file's bytes; the same content gives the same. Raises ParameterFileError where it breaks a limit of the format."""
    tensors: dict[str, Array] = {}
    entries: list[dict[str, Any]] = []
    for number, entry in enumerate(content.entries):
        parameters = entry.parameters
        for name in _DIMENSIONS:
            if getattr(parameters, name) is not None:
                tensors[f"{number}.{name}"] = np.asarray(getattr(parameters, name), dtype=np.float64)
        described = {name: getattr(parameters, name) for name in ("method", "order", "directions", "coordinate")}
        described |= {"guidance": entry.guidance, "model": _cleaned(asdict(entry.model))}
        if not entry.model.patches:
            del described["model"]["patches"]  # as files were written before there was this field
        described["report"] = None if entry.report is None else asdict(entry.report)
        if entry.recipe:
            described["recipe"] = _cleaned(entry.recipe)
        entries.append(described)
    words = _cleaned({name: getattr(content, name) for name in _WORDS})
    try:
        metadata = {
            **{key: content.workflow[key] for key in WORKFLOW_KEYS if key in content.workflow},
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "software": content.software,
            "content": json.dumps({**words, "entries": entries}, allow_nan=False),
        }
        data = packed(tensors, metadata)
        from_bytes(data)
    except (FormatError, ValueError, TypeError) as error:
        raise ParameterFileError(f"This cannot be stored: {error}") from error
    return data


def _cleaned(described: Mapping[str, Any]) -> dict[str, Any]:
    """With texts as a reader takes them: a file name may hold bytes that are no text, and notes what was pasted."""
    return {key: printable(value) if isinstance(value, str) else value for key, value in described.items()}


def _content(container: Container) -> ParameterFile:
    metadata = container.metadata
    if metadata.get("format") != FORMAT:
        raise ForeignFileError(f"format is {str(metadata.get('format'))[:40]!r}, not {FORMAT!r}: made by other software.")
    version = metadata.get("format_version")
    if version not in READABLE_VERSIONS:
        raise VersionError(
            f"format_version is {str(version)[:20]!r}; this software reads versions {' and '.join(READABLE_VERSIONS)}. "
            "Update D-ODE to read the file."
        )
    if "content" not in metadata:
        raise FormatError("content is missing from the metadata.")
    reader = Fields(parse_object(metadata["content"], "content"), "content")
    described = reader.take("entries", list)
    if not 1 <= len(described) <= MAX_ENTRIES:
        raise FormatError(f"entries: there must be 1 to {MAX_ENTRIES}, got {len(described)}.")
    parts = [part for part in _DIMENSIONS if version != "1" or part not in _OPTIONAL]
    known = {f"{number}.{part}": _DIMENSIONS[part] for number in range(len(described)) for part in parts}
    tensors = container.tensors(known)
    missing = [name for name in known if name not in tensors and name.partition(".")[2] not in _OPTIONAL]
    if missing:
        raise FormatError(f"tensor {missing[0]!r} is missing.")
    rows = sum(len(tensors[f"{number}.values"]) for number in range(len(described)))
    if rows > MAX_ROWS:
        raise FormatError(f"the entries have {rows} rows in all; there may be {MAX_ROWS}.")
    entries = tuple(_entry(number, item, tensors) for number, item in enumerate(described))
    words = {name: reader.take(name, str, "") for name in _WORDS}
    workflow = {key: metadata[key] for key in WORKFLOW_KEYS if key in metadata}
    return ParameterFile(entries, **words, software=check_text(metadata.get("software", ""), "software"), workflow=workflow)


def _entry(number: int, item: Any, tensors: Mapping[str, Array]) -> Entry:
    where = f"entries[{number}]"
    reader = Fields(item, where)
    arrays: dict[str, Any] = {name: tensors.get(f"{number}.{name}") for name in _DIMENSIONS}
    for name, tensor in arrays.items():
        if tensor is not None and not (np.abs(tensor) <= (MAX_SIGMA if name in _LEVELS else MAX_VALUE)).all():
            raise FormatError(f"tensor '{number}.{name}' must be finite and within ±{MAX_VALUE:g}.")
    levels: dict[str, Any] = {name: None if arrays[name] is None else tuple(arrays[name].tolist()) for name in _LEVELS}
    words = {name: reader.take(name, str) for name in ("method", "directions", "coordinate")}
    try:
        parameters = Parameters(
            order=reader.take("order", int), values=arrays["values"], guidance=arrays["guidance"], **levels, **words
        )
        parameters.tableau()  # once, so that what cannot be a consistent solver is refused here
    except ParameterFileError:
        raise
    except DodeError as error:
        raise FormatError(f"{where}: {error}") from error
    model = Fields({} if item.get("model") is None else item["model"], f"{where}.model")
    texts = {f.name: model.take(f.name, str, "") for f in fields(ModelInfo) if f.name != "channels"}
    info = ModelInfo(**texts, channels=model.take("channels", int, None))
    report, recipe = _report(item.get("report"), where, parameters), _recipe(item.get("recipe"), f"{where}.recipe")
    return Entry(parameters, info, reader.take("guidance", float, None, 0.0, MAX_VALUE), report, recipe)


def _report(item: Any, where: str, parameters: Parameters) -> Report | None:
    if item is None:
        return None
    reader = Fields(item, f"{where}.report")
    teacher = Fields(reader.take("teacher", dict), f"{where}.report.teacher")
    evaluations = Fields(reader.take("model_evaluations", dict), f"{where}.report.model_evaluations")
    steps, rows = len(parameters.sigmas) - 1, len(parameters.values)
    found: dict[str, Any] = {}
    found |= {name: reader.take(name, float, low=0.0) for name in ("teacher_error", "error_base", "error_distilled")}
    found["strength"] = reader.take("strength", float, low=0.0, high=1.0)
    found |= {name: reader.take(name, int) for name in ("samples", "held_out", "seed")}
    found |= {name: reader.numbers(name, steps) for name in ("step_errors_base", "step_errors_distilled")}
    found["kept"] = reader.numbers("kept", rows, 1.0)
    found["model_evaluations"] = {
        check_text(stage, "stage"): evaluations.take(stage, int) for stage in list(evaluations.value)[:MAX_STAGES]
    }
    found["teacher"] = Teacher(
        teacher.take("method", str),
        teacher.take("order", int, None),
        teacher.take("substeps", int),
        teacher.take("coordinate", str),
    )
    return Report(**found)


def _recipe(item: Any, where: str) -> Recipe:
    if item is None:
        return {}
    given = Fields(item, where).value
    if len(given) > MAX_RECIPE:
        raise FormatError(f"{where} must have at most {MAX_RECIPE} fields, got {len(given)}.")
    return {check_text(name, where, MAX_RECIPE_NAME): _recipe_value(value, f"{where}.{name}") for name, value in given.items()}


def _recipe_value(value: Any, where: str) -> RecipeValue:
    if isinstance(value, list):
        kinds = {type(part) for part in value}
        if len(value) > MAX_RECIPE_LIST or not (kinds <= {str} or kinds <= {int, float}):
            raise FormatError(f"{where} must be a list of at most {MAX_RECIPE_LIST} numbers or texts.")
        parts: Any = tuple(_recipe_value(part, where) for part in value)
        return parts
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return check_text(value, where)
    if type(value) in (int, float) and abs(value) <= MAX_NUMBER:
        return value
    raise FormatError(f"{where} must be a text, a finite number, true, false, null or a list of numbers or of texts.")
