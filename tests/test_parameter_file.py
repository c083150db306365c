"""The parameter file: what is written is read, and what is not a parameter file is refused by name."""

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save as save_tensors

from dode import Entry, ModelInfo, ParameterFile, Parameters, load_parameters, save_parameters, schedule
from dode.errors import FileExistsAlready, FormatError, ParameterFileError, VersionError
from dode.files.parameter_file import from_bytes, to_bytes
from tests.entries import report

SIGMAS = tuple(schedule("karras", 3, 0.1, 10.0))
TOLD = tuple(0.9 * sigma for sigma in SIGMAS[:-1])


def entry(values: Any = ((0.0,), (0.5,), (-0.25,))) -> Entry:
    model = ModelInfo("a model 模型", "UNet", "eps", 4, "abc")
    return Entry(Parameters("euler", 1, "noise", SIGMAS, np.array(values)), model, 7.5, report())


def rebuilt(change: Any = None, tensors: dict[str, np.ndarray] | None = None, **metadata: str | None) -> bytes:
    """The bytes of a good file with its JSON, tensors or metadata changed."""
    data = to_bytes(ParameterFile((entry(),)))
    size = struct.unpack("<Q", data[:8])[0]
    words = json.loads(data[8 : 8 + size])["__metadata__"]
    content = json.loads(words["content"])
    if change:
        change(content)
    words = {**words, "content": json.dumps(content), **metadata}
    parameters = entry().parameters
    arrays = {"0.sigmas": np.array(parameters.sigmas), "0.values": np.array(parameters.values), **(tensors or {})}
    return save_tensors(arrays, {k: v for k, v in words.items() if v is not None})


def test_what_is_written_is_read(tmp_path: Path) -> None:
    bare = Entry(Parameters("heun", 2, "data", SIGMAS[:-1], np.zeros((4, 2))))
    content = ParameterFile((entry(), bare), "me", "CC0-1.0", "notes\nin two lines")
    path = save_parameters(tmp_path / "new" / "folder" / "file.safetensors", content)
    found = load_parameters(path)
    assert (found.author, found.licence, found.notes, found.software) == (
        "me",
        "CC0-1.0",
        "notes\nin two lines",
        content.software,
    )
    for a, b in zip(found.entries, content.entries, strict=True):
        assert (a.model, a.guidance, a.report, a.evaluations) == (b.model, b.guidance, b.report, b.evaluations)
        for name in ("method", "order", "directions", "sigmas", "coordinate"):
            assert getattr(a.parameters, name) == getattr(b.parameters, name)
        assert (a.parameters.values == b.parameters.values).all()
        assert a.parameters.tableau() == b.parameters.tableau()
    assert [p.name for p in path.parent.iterdir()] == ["file.safetensors"]


def test_a_file_is_not_overwritten_unless_asked(tmp_path: Path) -> None:
    path = save_parameters(tmp_path / "a.safetensors", [entry()])
    before = path.read_bytes()
    with pytest.raises(FileExistsAlready, match="exists already"):
        save_parameters(path, [entry(((0.0,), (9.0,), (9.0,)))])
    assert path.read_bytes() == before
    save_parameters(path, [entry(((0.0,), (9.0,), (9.0,)))], overwrite=True)
    assert load_parameters(path).entries[0].parameters.values[1, 0] == 9


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_parameters(tmp_path / "a.safetensors", [entry()])
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ParameterFileError, match="No space left"):
        save_parameters(path, [entry(((0.0,), (9.0,), (9.0,)))], overwrite=True)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_names_and_places_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ParameterFileError, match=r"end in \.safetensors"):
        save_parameters(tmp_path / "a.pt", [entry()])
    (tmp_path / "file").write_text("")
    with pytest.raises(ParameterFileError, match="could not be written"):
        save_parameters(tmp_path / "file" / "a.safetensors", [entry()])
    with pytest.raises(ParameterFileError, match="could not be read"):
        load_parameters(tmp_path / "missing.safetensors")
    with pytest.raises(ParameterFileError, match="could not be read"):
        load_parameters(tmp_path)


def test_content_beyond_the_formats_limits_is_not_written(tmp_path: Path) -> None:
    for content in (
        ParameterFile(()),
        ParameterFile((entry(),) * 257),
        ParameterFile((entry(((0.0,), (1e7,), (0.0,))),)),
        ParameterFile((entry(),), notes="x" * 20_000),
        ParameterFile((Entry(entry().parameters, guidance=float("nan")),)),
    ):
        with pytest.raises(ParameterFileError, match="cannot be stored"):
            save_parameters(tmp_path / "a.safetensors", content)
    assert not list(tmp_path.iterdir())


def test_unknown_fields_are_ignored() -> None:
    def grow(content: dict[str, Any]) -> None:
        content["colour"] = "red"
        content["entries"][0]["report"]["later"] = [1, {"a": None}]
        content["entries"][0]["model"]["later"] = 3

    assert from_bytes(rebuilt(grow)).entries[0].report == entry().report


def put(*path: Any, value: Any) -> Any:
    def change(content: dict[str, Any]) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    return change


NAN, INFINITY, FIRST = float("nan"), float("inf"), ("entries", 0)
BROKEN: list[tuple[bytes, str]] = [
    (b"", "not a safetensors file"),
    (b"\x00" * 8, "not a safetensors file"),
    (b"\xff" * 64, "not a safetensors file"),
    (struct.pack("<Q", 10) + b"{not json}", "not valid JSON"),
    (struct.pack("<Q", 2) + b"[]", "JSON object"),
    (struct.pack("<Q", 200_000) + b'{"a":' * 40_000, "nested deeper"),
    (save_tensors({"weight": np.zeros(3)}), "other software"),
    (save_tensors({"weight": np.zeros(3)}, {"format": "pt"}), "other software"),
    (rebuilt(format=None), "other software"),
    (rebuilt(content=None), "content is missing"),
    (rebuilt(content="[]"), "JSON object"),
    (rebuilt(content='{"entries": [], "entries": []}'), "stands twice"),
    (rebuilt(put("entries", value=[])), "1 to 256"),
    (rebuilt(put("entries", value=None)), "entries is missing"),
    (rebuilt(put("entries", value="many")), "must be list"),
    (rebuilt(put("entries", 0, value=3)), r"entries\[0\] must be a JSON object"),
    (rebuilt(put("author", value=3)), "author must be str"),
    (rebuilt(put("notes", value="x" * 20_000)), "at most 10000"),
    (rebuilt(put(*FIRST, "method", value="eulre")), "Unknown solver"),
    (rebuilt(put(*FIRST, "method", value=None)), "method is missing"),
    (rebuilt(put(*FIRST, "order", value=7)), "no order 7"),
    (rebuilt(put(*FIRST, "order", value="1")), "order must be int"),
    (rebuilt(put(*FIRST, "order", value=True)), "order must be int"),
    (rebuilt(put(*FIRST, "directions", value="up")), "directions"),
    (rebuilt(put(*FIRST, "coordinate", value="up")), "coordinate"),
    (rebuilt(put(*FIRST, "guidance", value=NAN)), "NaN is not a JSON number"),
    (rebuilt(put(*FIRST, "guidance", value=-1.0)), "guidance must be finite and from 0"),
    (rebuilt(put(*FIRST, "guidance", value=10**400)), "a number of 401 digits"),
    (rebuilt(put(*FIRST, "guidance", value=10**30)), "guidance must be float"),
    (rebuilt(put(*FIRST, "model", value=[])), "model must be a JSON object"),
    (rebuilt(put(*FIRST, "model", "channels", value=-4)), "channels must be a whole number"),
    (rebuilt(put(*FIRST, "report", "error_base", value=-INFINITY)), "-Infinity is not a JSON number"),
    (rebuilt(put(*FIRST, "report", "error_base", value=-0.1)), "error_base must be finite and from 0"),
    (rebuilt(put(*FIRST, "report", "strength", value=1.5)), "strength must be finite and from 0 to 1"),
    (rebuilt(put(*FIRST, "report", "seed", value=2**64)), "seed must be a whole number"),
    (rebuilt(put(*FIRST, "report", "samples", value=None)), "samples is missing"),
    (rebuilt(put(*FIRST, "report", "kept", value=[1] * 9)), "at most 3 finite"),
    (rebuilt(put(*FIRST, "report", "kept", value=[2.0])), "numbers from 0 to 1"),
    (rebuilt(put(*FIRST, "report", "teacher", "substeps", value=-1)), "substeps"),
    (rebuilt(tensors={"0.sigmas": np.array([1.0, 2.0, 3.0, 4.0])}), "descending"),
    (rebuilt(tensors={"0.sigmas": np.array([NAN, 2.0, 1.0, 0.0])}), "finite"),
    (rebuilt(tensors={"0.sigmas": np.array([3.0, 2.0, 1.0, 0.0], dtype=np.float32)}), "float64"),
    (rebuilt(tensors={"0.sigmas": np.zeros((2, 2))}), "1 dimensions"),
    (rebuilt(tensors={"0.values": np.full((3, 1), NAN)}), "finite"),
    (rebuilt(tensors={"0.values": np.full((3, 1), 1e9)}), "within"),
    (rebuilt(tensors={"0.values": np.ones((3, 2))}), "Row 0"),
    (rebuilt(tensors={"0.values": np.zeros((9, 1))}), "shape"),
    (rebuilt(tensors={"0.values": np.zeros((3, 40))}), "shape"),
    (rebuilt(tensors={"0.guidance": np.full((3, 1), NAN)}), "'0.guidance' must be finite"),
    (rebuilt(tensors={"0.guidance": np.full((3, 1), -1e9)}), "'0.guidance' must be finite"),
    (rebuilt(tensors={"0.guidance": np.zeros(3)}), "'0.guidance' must be float64 with 2"),
    (rebuilt(tensors={"0.guidance": np.zeros((2, 1))}), "guidance must have shape"),
    (rebuilt(tensors={"0.model_sigmas": np.full(3, NAN)}), "'0.model_sigmas' must be finite"),
    (rebuilt(tensors={"0.model_sigmas": np.zeros(3, dtype=np.float32)}), "float64 with 1"),
    (rebuilt(tensors={"0.model_sigmas": np.full(3, 1e5)}), "within a factor of 4"),
    (rebuilt(tensors={"0.model_sigmas": np.ones(9)}), "model_sigmas must be 3 levels"),
    (rebuilt(tensors={"1.values": np.zeros((3, 1))}), "'1.values' is not known"),
    (rebuilt()[:-4], "cut off, or with something added"),
    (rebuilt() + b"0000", "cut off, or with something added"),
    (rebuilt()[:500], "header is missing or cut off"),
    (b"\x00" * (3 << 20), "at most 2 MiB"),
]


@pytest.mark.parametrize(("data", "says"), BROKEN, ids=[says for _, says in BROKEN])
def test_broken_files_are_refused_by_name(data: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=says) as caught:
        load_parameters(path)
    assert str(path) in str(caught.value)


def test_a_newer_version_says_to_update() -> None:
    with pytest.raises(VersionError, match="Update D-ODE"):
        from_bytes(rebuilt(format_version="3"))


def refined() -> Entry:
    """An entry with a guidance channel and its own noise levels for the model, of which only the end was measured."""
    plain = entry()
    assert plain.report is not None
    channel = np.array([[0.1, 0.0], [0.2, -0.1], [0.0, 0.3]])
    parameters = replace(plain.parameters, guidance=channel, model_sigmas=TOLD)
    report = replace(plain.report, step_errors_base=(0.2,), step_errors_distilled=(0.1,))
    return replace(plain, parameters=parameters, report=report)


def test_the_guidance_channel_and_the_told_levels_are_kept(tmp_path: Path) -> None:
    wanted = refined()
    content = ParameterFile((entry(), wanted))
    plain, found = load_parameters(save_parameters(tmp_path / "a.safetensors", content)).entries
    assert (plain.parameters.guidance, plain.parameters.model_sigmas) == (None, None)
    assert found.report == wanted.report
    assert found.parameters.model_sigmas == wanted.parameters.model_sigmas
    assert found.parameters.guidance is not None
    np.testing.assert_array_equal(found.parameters.guidance, wanted.parameters.guidance)
    assert found.parameters.tableau() == wanted.parameters.tableau()


def test_version_one_is_read_and_knows_no_guidance_channel() -> None:
    assert from_bytes(rebuilt(format_version="1")).entries[0].report == entry().report
    for name, tensor in (("guidance", np.zeros((3, 1))), ("model_sigmas", np.array(TOLD))):
        assert getattr(from_bytes(rebuilt(tensors={f"0.{name}": tensor})).entries[0].parameters, name) is not None
        with pytest.raises(FormatError, match=f"'0.{name}' is not known"):
            from_bytes(rebuilt(tensors={f"0.{name}": tensor}, format_version="1"))
