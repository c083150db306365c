"""The parameter file: distilled samplers as safetensors that can be shared.

Format version 2. Tensors, all float64, for entry number i: ``i.sigmas`` (n+1,) and ``i.values`` (rows, taps), and where the
sampler has them ``i.guidance`` (rows, taps), the weights of the guidance channel, and ``i.model_sigmas`` (NFE,), the noise
levels that the model is told. Version 1 is the same without these two, and is read as well. String metadata: ``format`` =
"dode-parameters", ``format_version``, ``software``, and ``content``, a JSON object with author, licence, notes and the list of
entries. Reading runs no code and believes nothing: sizes, names, shapes, types and ranges are checked before anything is built.
A reader ignores JSON fields it does not know, so fields can be added without a new version.
"""

import contextlib
import json
import os
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from dode.correction import Parameters
from dode.distill import Report
from dode.errors import DodeError, FileExistsAlready, FormatError, ParameterFileError, VersionError
from dode.teacher import Teacher
from dode.version import __version__

FORMAT = "dode-parameters"
FORMAT_VERSION = "2"
READABLE_VERSIONS = ("1", "2")
MAX_FILE_BYTES = 16 << 20
MAX_HEADER_BYTES = 4 << 20
MAX_ENTRIES = 256
MAX_TEXT = 10_000
MAX_VALUE = 1e6
_DIMENSIONS = {"sigmas": 1, "values": 2, "guidance": 2, "model_sigmas": 1}
_LEVELS = ("sigmas", "model_sigmas")
_OPTIONAL = ("guidance", "model_sigmas")  # from version 2 on


@dataclass(frozen=True)
class ModelInfo:
    """The model that parameters were fitted on.

    Attributes:
        name: what a person calls it, such as the checkpoint's file name.
        family: architecture class.
        prediction: "eps", "v", "edm", "flow" or another short word.
        channels: channels of the latent.
        fingerprint: of the weights.
    """

    name: str = ""
    family: str = ""
    prediction: str = ""
    channels: int | None = None
    fingerprint: str = ""


@dataclass(frozen=True, eq=False)
class Entry:
    """One distilled sampler and where it comes from.

    Attributes:
        parameters: the sampler.
        model: the model it was fitted on.
        guidance: classifier-free guidance scale while fitting; 1 is none, missing is unknown.
        report: what was measured while fitting.
    """

    parameters: Parameters
    model: ModelInfo = field(default_factory=ModelInfo)
    guidance: float | None = None
    report: Report | None = None

    @property
    def evaluations(self) -> int:
        """Evaluations of the model per sample (NFE)."""
        return self.parameters.base().evaluations


@dataclass(frozen=True, eq=False)
class ParameterFile:
    """What a parameter file holds: entries, and words about them."""

    entries: tuple[Entry, ...]
    author: str = ""
    licence: str = ""
    notes: str = ""
    software: str = f"dode {__version__}"


def save_parameters(path: str | os.PathLike[str], content: ParameterFile | Sequence[Entry], *, overwrite: bool = False) -> Path:
    """Write a parameter file, whole or not at all.

    Args:
        path: must end in .safetensors; missing folders are made.
        content: a file, or just its entries.
        overwrite: replace a file of that name.

    Raises:
        FileExistsAlready: there is a file of that name and ``overwrite`` is off.
        ParameterFileError: the content breaks a limit of the format, or the disk refuses.
    """
    target = Path(path)
    if target.suffix != ".safetensors":
        raise ParameterFileError(f"A parameter file's name must end in .safetensors, got {target.name!r}.")
    data = to_bytes(content if isinstance(content, ParameterFile) else ParameterFile(tuple(content)))
    temporary = target.with_name(f".{target.stem[:100]}.{secrets.token_hex(8)}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and not overwrite:
            raise FileExistsAlready(f"{target} exists already. Choose another name, or ask to overwrite it.")
        try:
            with open(temporary, "xb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, target)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()
    except OSError as error:
        raise ParameterFileError(f"{target} could not be written: {error.strerror or error}. Nothing was changed.") from error
    return target


def load_parameters(path: str | os.PathLike[str]) -> ParameterFile:
    """Read a parameter file.

    Raises:
        FormatError: not a parameter file, or broken; the message names the field. VersionError: made by a newer software.
        ParameterFileError: it cannot be read at all.
    """
    target = Path(path)
    try:
        with open(target, "rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ParameterFileError(f"{target} could not be read: {error.strerror or error}.") from error
    try:
        return from_bytes(data)
    except ParameterFileError as error:
        raise type(error)(f"{target}: {error}") from error


def to_bytes(content: ParameterFile) -> bytes:
    """The file's bytes. Raises ParameterFileError where the content breaks a limit of the format."""
    tensors: dict[str, np.ndarray] = {}
    entries: list[dict[str, Any]] = []
    for number, entry in enumerate(content.entries):
        parameters = entry.parameters
        tensors[f"{number}.sigmas"] = np.array(parameters.sigmas)
        tensors[f"{number}.values"] = np.ascontiguousarray(parameters.values)
        for name in _OPTIONAL:
            if getattr(parameters, name) is not None:
                tensors[f"{number}.{name}"] = np.ascontiguousarray(getattr(parameters, name), dtype=np.float64)
        described = {name: getattr(parameters, name) for name in ("method", "order", "directions", "coordinate")}
        described |= {"guidance": entry.guidance, "model": asdict(entry.model)}
        described["report"] = None if entry.report is None else asdict(entry.report)
        entries.append(described)
    words = {name: getattr(content, name) for name in ("author", "licence", "notes")}
    metadata = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "software": content.software,
        "content": json.dumps({**words, "entries": entries}, allow_nan=True),
    }
    data = save_tensors(tensors, metadata)
    try:
        from_bytes(data)
    except FormatError as error:
        raise ParameterFileError(f"This cannot be stored: {error}") from error
    return data


def from_bytes(data: bytes) -> ParameterFile:
    """Read a file's bytes; the checks of ``load_parameters``."""
    if len(data) > MAX_FILE_BYTES:
        raise FormatError(f"a parameter file is at most {MAX_FILE_BYTES >> 20} MiB, this is larger: not a parameter file.")
    metadata = _metadata(data)
    content = _json(metadata["content"], "content")
    reader = _Reader(content, "content")
    described = reader.take("entries", list)
    if not 1 <= len(described) <= MAX_ENTRIES:
        raise FormatError(f"entries: there must be 1 to {MAX_ENTRIES}, got {len(described)}.")
    try:
        tensors = load_tensors(data)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise FormatError(f"not a valid safetensors file ({error}).") from error
    parts = [part for part in _DIMENSIONS if metadata["format_version"] != "1" or part not in _OPTIONAL]
    known = {f"{number}.{part}" for number in range(len(described)) for part in parts}
    needed = {name for name in known if name.partition(".")[2] not in _OPTIONAL}
    if not needed <= set(tensors) <= known:
        odd = sorted((set(tensors) - known) | (needed - set(tensors)))[0]
        raise FormatError(f"tensor {odd!r} is {'not known' if odd in tensors else 'missing'}.")
    entries = tuple(_entry(number, item, tensors) for number, item in enumerate(described))
    words = {name: reader.take(name, str, "") for name in ("author", "licence", "notes")}
    return ParameterFile(entries, **words, software=_text(metadata.get("software", ""), "software"))


def _metadata(data: bytes) -> dict[str, str]:
    """The string metadata of a safetensors file, with format and version checked."""
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or not 2 <= size <= min(MAX_HEADER_BYTES, len(data) - 8):
        raise FormatError("not a safetensors file: its header is missing, cut off or too large.")
    header = _json(data[8 : 8 + size], "header")
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise FormatError("this safetensors file has no D-ODE metadata: it was made by other software.")
    if metadata.get("format") != FORMAT:
        raise FormatError(f"format is {str(metadata.get('format'))[:40]!r}, not {FORMAT!r}: made by other software.")
    version = metadata.get("format_version")
    if version not in READABLE_VERSIONS:
        raise VersionError(
            f"format_version is {str(version)[:20]!r}; this software reads versions {' and '.join(READABLE_VERSIONS)}. "
            "Update D-ODE to read the file."
        )
    if "content" not in metadata:
        raise FormatError("content is missing from the metadata.")
    return metadata


def _json(text: str | bytes, where: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise FormatError(f"{where}: a key stands twice.")
        return found

    try:
        value = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        if isinstance(error, DodeError):
            raise
        raise FormatError(f"{where} is not valid JSON.") from error
    if not isinstance(value, dict):
        raise FormatError(f"{where} must be a JSON object.")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise FormatError(f"{where} must be a text of at most {MAX_TEXT} characters.")
    return value


_REQUIRED: Any = object()


class _Reader:
    """Takes typed fields out of a JSON object, naming the field in every refusal."""

    def __init__(self, value: Any, where: str):
        if not isinstance(value, dict):
            raise FormatError(f"{where} must be a JSON object, got {type(value).__name__}.")
        self.value, self.where = value, where

    def take(self, name: str, kind: type, default: Any = _REQUIRED) -> Any:
        where = f"{self.where}.{name}"
        value = self.value.get(name)
        if value is None:
            if default is _REQUIRED:
                raise FormatError(f"{where} is missing.")
            return default
        if kind is float and type(value) is int:
            value = float(value) if abs(value) < 2**53 else value
        if type(value) is not kind:
            raise FormatError(f"{where} must be {kind.__name__}, got {type(value).__name__}.")
        if kind is str:
            return _text(value, where)
        if kind is float and not np.isfinite(value):
            raise FormatError(f"{where} must be finite, got {value}.")
        if kind is int and not 0 <= value < 2**63:
            raise FormatError(f"{where} must be a whole number from 0 up, got {value}.")
        return value

    def numbers(self, name: str, limit: int) -> tuple[float, ...]:
        values = self.take(name, list)
        if len(values) > limit or not all(type(v) in (int, float) and abs(v) < 1e300 for v in values):
            raise FormatError(f"{self.where}.{name} must be a list of at most {limit} finite numbers.")
        return tuple(float(v) for v in values)


def _entry(number: int, item: Any, tensors: dict[str, np.ndarray]) -> Entry:
    where = f"entries[{number}]"
    reader = _Reader(item, where)
    arrays: dict[str, Any] = {name: tensors.get(f"{number}.{name}") for name in _DIMENSIONS}
    for name, tensor in arrays.items():
        if tensor is None:
            continue
        if tensor.dtype != np.float64 or tensor.ndim != _DIMENSIONS[name]:
            raise FormatError(f"tensor '{number}.{name}' must be float64 with {_DIMENSIONS[name]} dimensions.")
        if name != "sigmas" and not (np.abs(tensor) <= MAX_VALUE).all():
            raise FormatError(f"tensor '{number}.{name}' must be finite and within ±{MAX_VALUE:g}.")
    levels: dict[str, Any] = {name: None if arrays[name] is None else tuple(arrays[name].tolist()) for name in _LEVELS}
    words = {name: reader.take(name, str) for name in ("method", "directions", "coordinate")}
    try:
        parameters = Parameters(
            order=reader.take("order", int), values=arrays["values"], guidance=arrays["guidance"], **levels, **words
        )
    except ParameterFileError:
        raise
    except DodeError as error:
        raise FormatError(f"{where}: {error}") from error
    model = _Reader(item.get("model", {}), f"{where}.model")
    texts = {f.name: model.take(f.name, str, "") for f in fields(ModelInfo) if f.name != "channels"}
    info = ModelInfo(**texts, channels=model.take("channels", int, None))
    return Entry(parameters, info, reader.take("guidance", float, None), _report(item.get("report"), where, parameters))


def _report(item: Any, where: str, parameters: Parameters) -> Report | None:
    if item is None:
        return None
    reader = _Reader(item, f"{where}.report")
    teacher = _Reader(reader.take("teacher", dict), f"{where}.report.teacher")
    evaluations = _Reader(reader.take("model_evaluations", dict), f"{where}.report.model_evaluations")
    steps, rows = len(parameters.sigmas) - 1, len(parameters.values)
    found: dict[str, Any] = {}
    found |= {name: reader.take(name, float) for name in ("teacher_error", "error_base", "error_distilled", "strength")}
    found |= {name: reader.take(name, int) for name in ("samples", "held_out", "seed")}
    found |= {name: reader.numbers(name, steps) for name in ("step_errors_base", "step_errors_distilled")}
    found["kept"] = reader.numbers("kept", rows)
    found["model_evaluations"] = {_text(k, "stage"): evaluations.take(k, int) for k in list(evaluations.value)[:16]}
    found["teacher"] = Teacher(
        teacher.take("method", str),
        teacher.take("order", int, None),
        teacher.take("substeps", int),
        teacher.take("coordinate", str),
    )
    return Report(**found)
