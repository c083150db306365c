"""The safetensors container as parameter files use it: string metadata, and small float64 tensors one after the other.

Read here rather than by the safetensors package, because a reader has to know how large everything is before it is read, and
because a refusal has to say what is wrong. Written here because the package writes metadata in a random order, and the same
content should give the same bytes. The tests run both against the package.
"""

import io
import json
import math
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from dode.errors import ForeignFileError, FormatError
from dode.files.bounded_json import parse_object
from dode.tableau import Array

MAX_FILE_BYTES = 2 << 20
MAX_HEADER_BYTES = 1 << 20
MAX_TENSORS = 1024
_METADATA = "__metadata__"
_DTYPE = np.dtype("<f8")


class Container:
    """An opened file: its string metadata, and its tensors, of which only sizes and places are known before ``tensors``.

    Raises:
        FormatError: on construction, for anything that is no container of this kind or beyond its limits.
    """

    def __init__(self, stream: BinaryIO, size: int):
        """``stream`` stands at the start of ``size`` bytes; no more than the header is read."""
        if size > MAX_FILE_BYTES:
            raise ForeignFileError(
                f"a parameter file is at most {MAX_FILE_BYTES >> 20} MiB, this is larger: not a parameter file."
            )
        head = _read(stream, min(8, size))
        length = int.from_bytes(head, "little")
        if len(head) < 8 or not 2 <= length <= size - 8:
            raise FormatError("not a safetensors file: its header is missing or cut off.")
        if length > MAX_HEADER_BYTES:
            raise ForeignFileError(f"its header is larger than {MAX_HEADER_BYTES >> 20} MiB: not a parameter file.")
        try:
            header = parse_object(_read(stream, length).decode(), "header")
        except UnicodeDecodeError as error:
            raise FormatError("header is not valid JSON.") from error
        metadata = header.pop(_METADATA, None)
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise ForeignFileError("this safetensors file has no D-ODE metadata: it was made by other software.")
        self.metadata: dict[str, str] = metadata
        self._header, self._stream, self._bytes = header, stream, size - 8 - length

    def tensors(self, dimensions: Mapping[str, int]) -> dict[str, Array]:
        """All tensors, float64. ``dimensions`` are how many each one has, by name.

        Raises:
            FormatError: another type, size or number of dimensions; tensors that overlap or leave gaps; unknown names.
        """
        if len(self._header) > MAX_TENSORS:
            raise FormatError(f"there are {len(self._header)} tensors; there may be {MAX_TENSORS}.")
        places: list[tuple[int, int, str, tuple[int, ...]]] = []
        for name, described in self._header.items():
            shown = repr(name[:40])
            if name not in dimensions:
                raise FormatError(f"tensor {shown} is not known.")
            places.append((*_place(described, f"tensor {shown}", dimensions[name]), name, tuple(described["shape"])))
        end = 0
        for start, stop, name, _ in sorted(places):
            if start != end:
                raise FormatError(
                    f"tensor {name!r} {'overlaps the one before it' if start < end else 'leaves a gap before it'}."
                )
            end = stop
        if end != self._bytes:
            raise FormatError(f"the tensors take {end} bytes and the file has {self._bytes}: cut off, or with something added.")
        data = _read(self._stream, end)
        return {name: np.frombuffer(data[a:b], _DTYPE).astype(np.float64).reshape(shape) for a, b, name, shape in places}


def _place(described: Any, where: str, dimensions: int) -> tuple[int, int]:
    """Where a tensor starts and ends."""
    if not isinstance(described, dict) or set(described) != {"dtype", "shape", "data_offsets"}:
        raise FormatError(f"{where} must be described by dtype, shape and data_offsets.")
    shape, offsets = described["shape"], described["data_offsets"]
    for numbers in (shape, offsets):
        if not isinstance(numbers, list) or not all(type(n) is int and 0 <= n <= MAX_FILE_BYTES for n in numbers):
            raise FormatError(f"{where} has a shape or data_offsets that are no list of possible whole numbers.")
    if described["dtype"] != "F64" or len(shape) != dimensions:
        raise FormatError(f"{where} must be float64 with {dimensions} dimensions.")
    if len(offsets) != 2 or offsets[1] - offsets[0] != _DTYPE.itemsize * math.prod(shape):
        raise FormatError(f"{where} has data_offsets that do not belong to its shape.")
    return offsets[0], offsets[1]


def _read(stream: BinaryIO, count: int) -> bytes:
    parts = []
    while count:
        part = stream.read(count)
        if not part:
            raise FormatError("it ends too early; it may have been cut off, or is being written.")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def opened(data: bytes) -> Container:
    """A container in memory."""
    return Container(io.BytesIO(data), len(data))


def packed(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a container; the same content gives the same bytes."""
    header: dict[str, Any] = {_METADATA: dict(metadata)}
    parts, end = [], 0
    for name, tensor in tensors.items():
        parts.append(np.ascontiguousarray(tensor, dtype=_DTYPE).tobytes())
        header[name] = {"dtype": "F64", "shape": list(tensor.shape), "data_offsets": [end, end + len(parts[-1])]}
        end += len(parts[-1])
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _DTYPE.itemsize)
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])
