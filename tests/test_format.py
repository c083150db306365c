"""The format as docs/format.md and the schema describe it: golden files, the bytes written, the limits, mutated files."""

import json
import re
import struct
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from safetensors import safe_open

from dode import (
    Entry,
    ModelInfo,
    ParameterFile,
    Parameters,
    load_parameters,
    save_parameters,
)
from dode.correction import MAX_TAPS
from dode.errors import FormatError, ParameterFileError
from dode.files import bounded_json, parameter_file
from dode.files import safetensors_container as container
from dode.files.parameter_file import from_bytes, to_bytes
from dode.tableau import MAX_STEPS
from tests.entries import report
from tests.fuzz import GOLDEN, apart, extremes, fuzz, joined, peak, reread, seeds

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = json.loads((ROOT / "docs" / "format.schema.json").read_text())
SIGMAS = (10.0, 1.4507321135661928, 0.10000000000000002, 0.0)


def validate(data: bytes) -> None:
    """Check a file's metadata with the published schema."""
    header, content, _ = apart(data)
    jsonschema.Draft202012Validator(SCHEMA).validate(header)
    jsonschema.Draft202012Validator({**SCHEMA["$defs"]["content"], "$defs": SCHEMA["$defs"]}).validate(content)


def entry() -> Entry:
    parameters = Parameters("euler", 1, "noise", SIGMAS, np.array([[0.0], [0.5], [-0.25]]))
    return Entry(parameters, ModelInfo("a model 模型", "UNet", "eps", 4, "abc"), 7.5, report())


def bare() -> Entry:
    return Entry(Parameters("heun", 2, "data", SIGMAS[:-1], np.zeros((4, 2))))


def refined() -> Entry:
    plain = entry()
    assert plain.report is not None
    told = tuple(0.9 * sigma for sigma in SIGMAS[:-1])
    channel = np.array([[0.1, 0.0], [0.2, -0.1], [0.0, 0.3]])
    report = replace(plain.report, step_errors_base=(0.2,), step_errors_distilled=(0.1,))
    return replace(plain, parameters=replace(plain.parameters, guidance=channel, model_sigmas=told), report=report)


def with_recipe() -> Entry:
    values: dict[str, Any] = {"mode": "balanced", "seed": 2**64 - 1, "guided": True, "order": None, "scales": (3.0, 5.5)}
    return replace(refined(), recipe={**values, "solvers": ("ipndm", "deis")})


WORDS = ("me", "CC0-1.0", "notes\nin two lines")
# Each golden file, as the software of its time wrote it, and what it holds.
WRITTEN: dict[str, tuple[Entry, ...]] = {
    "version_1": (entry(), bare()),
    "version_2_first": (entry(), bare(), refined()),
    "version_2": (entry(), bare(), refined(), with_recipe()),
}


def same(found: ParameterFile, wanted: tuple[Entry, ...]) -> None:
    assert (found.author, found.licence, found.notes, found.software) == (*WORDS, "dode 0.1.0")
    for a, b in zip(found.entries, wanted, strict=True):
        assert (a.model, a.guidance, a.report, dict(a.recipe)) == (b.model, b.guidance, b.report, dict(b.recipe))
        for name in ("method", "order", "directions", "sigmas", "coordinate", "model_sigmas"):
            assert getattr(a.parameters, name) == getattr(b.parameters, name)
        for name in ("values", "guidance"):
            np.testing.assert_array_equal(getattr(a.parameters, name), getattr(b.parameters, name))


@pytest.mark.parametrize("name", WRITTEN)
def test_files_of_every_version_are_read(name: str) -> None:
    same(load_parameters(GOLDEN / f"{name}.safetensors"), WRITTEN[name])


def test_every_golden_file_is_tested() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(WRITTEN)


def test_the_bytes_written_are_those_of_the_golden_file() -> None:
    """If this fails, files are written in another way than before: see that older software reads them, add a golden file."""
    content = ParameterFile(WRITTEN["version_2"], *WORDS, software="dode 0.1.0")
    assert to_bytes(content) == (GOLDEN / "version_2.safetensors").read_bytes()
    assert to_bytes(from_bytes(to_bytes(content))) == to_bytes(content)


def test_the_safetensors_package_reads_the_same(tmp_path: Path) -> None:
    path = save_parameters(tmp_path / "a.safetensors", ParameterFile(WRITTEN["version_2"], *WORDS))
    with safe_open(path, "pt") as file:
        assert file.metadata()["format"] == "dode-parameters"
        numbers = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    for number, one in enumerate(WRITTEN["version_2"]):
        for part in ("sigmas", "values", "guidance", "model_sigmas"):
            wanted = getattr(one.parameters, part)
            assert (wanted is None) == (f"{number}.{part}" not in numbers)
            if wanted is not None:
                assert torch.equal(numbers[f"{number}.{part}"], torch.tensor(np.array(wanted)))


def test_files_fit_the_schema(tmp_path: Path) -> None:
    for data in seeds():
        validate(data)
    broken = json.loads((ROOT / "docs" / "format.schema.json").read_text())
    header, content, rest = apart((GOLDEN / "version_2.safetensors").read_bytes())
    assert content is not None
    content["entries"][0]["report"]["seed"] = -1
    header["__metadata__"]["content"] = json.dumps(content)
    with pytest.raises(jsonschema.ValidationError, match="'seed': -1"):
        validate(joined(json.dumps(header), rest))
    jsonschema.Draft202012Validator.check_schema(broken)


def test_what_is_read_fits_the_schema() -> None:
    """Short run of the fuzz; ``python -m tests.fuzz`` is the long one."""

    def valid(data: bytes, content: ParameterFile) -> None:
        reread(data, content)
        validate(data)

    outcome = fuzz(4000, seed=1, valid=valid)
    assert sum(outcome.said.values()) == 4000
    assert outcome.said["valid"] > 100
    assert len(outcome.said) > 100


@pytest.mark.parametrize("name", extremes())
def test_reading_takes_little_memory(name: str) -> None:
    assert peak(extremes()[name]) < 50e6


def test_of_a_large_file_nothing_is_read(tmp_path: Path) -> None:
    path = tmp_path / "large.safetensors"
    with open(path, "wb") as stream:
        stream.write(struct.pack("<Q", 1000))
        stream.truncate(1 << 40)
    with pytest.raises(FormatError, match="at most 2 MiB"):
        load_parameters(path)


def test_what_is_no_file_does_not_block(tmp_path: Path) -> None:
    import os

    pipe = tmp_path / "pipe.safetensors"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero")):
        done: list[str] = []

        def read(path: Path = path, done: list[str] = done) -> None:
            with pytest.raises(ParameterFileError, match="no regular file"):
                load_parameters(path)
            done.append("refused")

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        thread.join(20)
        assert done, path


def described(**tensor: Any) -> bytes:
    """A good file with the description of its first tensor changed."""
    header, _, rest = apart((GOLDEN / "version_2.safetensors").read_bytes())
    header["0.sigmas"] = {**header["0.sigmas"], **tensor}
    return joined(json.dumps(header), rest)


def with_content(text: str) -> bytes:
    header, _, rest = apart((GOLDEN / "version_2.safetensors").read_bytes())
    header["__metadata__"]["content"] = text
    return joined(json.dumps(header), rest)


def with_entry(**fields: Any) -> bytes:
    header, content, rest = apart((GOLDEN / "version_2.safetensors").read_bytes())
    assert content is not None
    content["entries"][0].update(fields)
    header["__metadata__"]["content"] = json.dumps(content)
    return joined(json.dumps(header), rest)


def with_number(name: str, number: float) -> bytes:
    """A good file with one number of a tensor of entry 3 replaced; that entry has all there are."""
    header, _, rest = apart((GOLDEN / "version_2.safetensors").read_bytes())
    start, changed = header[name]["data_offsets"][0], bytearray(rest)
    changed[start + 16 : start + 24] = struct.pack("<d", number)
    return joined(json.dumps(header), bytes(changed))


def many(entries: int, rows: int) -> bytes:
    """A file of so many entries with so many rows in all, by hand: the writer would refuse it."""
    one = {"method": "euler", "order": 1, "directions": "data", "coordinate": "log_sigma"}
    numbers: dict[str, Any] = {}
    for number in range(entries):
        steps = rows // entries + (number < rows % entries)
        numbers[f"{number}.sigmas"] = np.linspace(2.0, 0.0, steps + 1)
        numbers[f"{number}.values"] = np.zeros((steps, 1))
    metadata = {"format": "dode-parameters", "format_version": "2", "content": json.dumps({"entries": [one] * entries})}
    return container.packed(numbers, metadata)


REFUSED: dict[str, tuple[bytes, str]] = {
    "offsets that overlap": (described(data_offsets=[8, 40]), "overlaps|gap"),
    "two tensors in one place": (described(data_offsets=[32, 64]), "overlaps|gap"),
    "offsets backwards": (described(data_offsets=[32, 0]), "do not belong to its shape"),
    "offsets beyond the file": (described(data_offsets=[1 << 40, (1 << 40) + 32]), "no list of possible whole numbers"),
    "a shape beyond its place": (described(shape=[5]), "do not belong to its shape"),
    "a shape that overflows": (described(shape=[1 << 62]), "no list of possible whole numbers"),
    "a negative shape": (described(shape=[-4]), "no list of possible whole numbers"),
    "a field more": (described(strides=[8]), "described by dtype, shape and data_offsets"),
    "an infinite σ": (with_number("3.sigmas", float("inf")), "must be finite"),
    "an infinite λ": (with_number("3.values", float("-inf")), "must be finite"),
    "an infinite γ": (with_number("3.guidance", float("inf")), "must be finite"),
    "an absurd λ": (with_number("3.values", 1.1e6), "within ±1e"),
    "an absurd σ": (with_number("3.sigmas", 1.1e6), "within ±1e"),
    "a σ that is told far off": (with_number("3.model_sigmas", 5.0), "within a factor of 4"),
    "σ that do not descend": (with_number("3.sigmas", 20.0), "descending"),
    "float32": (described(dtype="F32"), "float64"),
    "a header of 2 MiB": (struct.pack("<Q", 2 << 20) + b" " * ((2 << 20) - 8), "header is missing or cut off"),
    "a large header": (struct.pack("<Q", 3 << 19) + b" " * (3 << 19), "header is larger than 1 MiB"),
    "UTF-16": (struct.pack("<Q", 8) + '{"a"'.encode("utf-16-le"), "header is not valid JSON"),
    "bytes that are no UTF-8": (struct.pack("<Q", 4) + b'{"\xff"', "header is not valid JSON"),
    "a tensor twice": (joined('{"0.values":1,"0.values":2}', b""), "a key stands twice"),
    "deep JSON": (with_content("[" * 100_000), "nested deeper than 32"),
    "deep JSON behind a text": (with_content('{"a":"[[","b":' + "[" * 40), "nested deeper than 32"),
    "JSON of many parts": (with_content("[" + "[]," * 40_000), "more than 65536 strings and brackets"),
    "a number of many digits": (with_content('{"entries": ' + "9" * 100_000), "number of 100000 digits"),
    "a text that never ends": (with_content('{"a": "' + '\\"' * 100_000), "content is not valid JSON"),
    "a number that overflows": (with_entry(guidance=1e308), "finite and from 0"),
    "control characters": (with_entry(model={"name": "\x1b[2Jcleared"}), "must not hold control characters"),
    "half a character": (with_entry(model={"name": "\ud800"}), "must not hold control characters"),
    "a recipe of objects": (with_entry(recipe={"a": {"b": 1}}), r"recipe\.a must be a text, a finite number"),
    "a recipe of mixed lists": (with_entry(recipe={"a": [1, "b"]}), r"recipe\.a must be a list"),
    "a long recipe": (with_entry(recipe={str(i): 1 for i in range(65)}), "at most 64 fields"),
    "many rows": (many(256, 1025), "1025 rows in all; there may be 1024"),
    "many entries": (many(257, 514), "entries: there must be 1 to 256, got 257"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name: str) -> None:
    data, says = REFUSED[name]
    with pytest.raises(FormatError, match=says):
        from_bytes(data)


def test_a_file_at_the_limit_is_read() -> None:
    assert len(from_bytes(many(256, 1024)).entries) == 256


def test_numbers_that_cannot_make_a_consistent_solver_are_refused() -> None:
    """λ are zero-sum and so consistent by themselves; what they make of a solver of the other form may overflow."""
    sigmas = tuple(float(sigma) for sigma in np.geomspace(1e6, 1e-300, 200))
    values = np.zeros((199, 2))
    values[2:] = 1e6
    header, content, _ = apart(to_bytes(ParameterFile((bare(),))))
    assert content is not None
    content["entries"][0] |= {"method": "ipndm", "order": 4, "directions": "data"}
    header["__metadata__"]["content"] = json.dumps(content)
    data = container.packed({"0.sigmas": np.array(sigmas), "0.values": values}, header["__metadata__"])
    with np.errstate(all="ignore"), pytest.raises(FormatError, match="not consistent"):
        from_bytes(data)


def test_texts_that_no_reader_takes_are_made_printable() -> None:
    named = replace(entry(), model=ModelInfo("a\udcff\x1b[2J.safetensors", "UNet"))
    found = from_bytes(to_bytes(ParameterFile((named,), notes="one\r\ntwo\x07")))
    assert found.entries[0].model.name == "a\ufffd\ufffd[2J.safetensors"
    assert found.notes == "one\ntwo\ufffd"


def test_every_seed_can_be_stored() -> None:
    report = entry().report
    assert report is not None
    large = replace(entry(), report=replace(report, seed=2**64 - 1))
    found = from_bytes(to_bytes(ParameterFile((large,)))).entries[0].report
    assert found is not None
    assert found.seed == 2**64 - 1


def test_prompts_are_there_only_where_asked_for() -> None:
    content = ParameterFile((entry(),), workflow={"workflow": '{"nodes": []}', "prompt": "{}", "extra": "x"})
    assert from_bytes(to_bytes(content)).workflow == {"workflow": '{"nodes": []}', "prompt": "{}"}
    assert b"prompt" not in to_bytes(replace(content, workflow={}))


def limits() -> Mapping[str, str]:
    """The limits as docs/format.md states them: lines of a table, | what | number |."""
    text = (ROOT / "docs" / "format.md").read_text()
    return dict(re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|$", text[text.index("## Limits") :], re.MULTILINE))


def test_the_document_states_the_limits_of_the_code() -> None:
    stated = limits()
    assert stated["file"] == f"{container.MAX_FILE_BYTES >> 20} MiB"
    assert stated["header"] == f"{container.MAX_HEADER_BYTES >> 20} MiB"
    assert stated["entries"] == str(parameter_file.MAX_ENTRIES)
    assert stated["rows of all entries together"] == str(parameter_file.MAX_ROWS)
    assert stated["taps"] == str(MAX_TAPS)
    assert stated["steps"] == str(MAX_STEPS)
    assert stated["absolute value of λ and γ"] == f"{parameter_file.MAX_VALUE:.0f}"
    assert stated["σ"] == f"{parameter_file.MAX_SIGMA:.0f}"
    assert stated["characters of a text"] == str(bounded_json.MAX_TEXT)
    assert stated["depth of JSON"] == str(bounded_json.MAX_DEPTH)
    assert stated["strings and brackets of JSON"] == str(bounded_json.MAX_TOKENS)
    assert stated["fields of a recipe"] == str(parameter_file.MAX_RECIPE)
    definitions = SCHEMA["$defs"]
    assert definitions["content"]["properties"]["entries"]["maxItems"] == parameter_file.MAX_ENTRIES
    assert definitions["text"]["maxLength"] == bounded_json.MAX_TEXT
    assert definitions["recipe"]["maxProperties"] == parameter_file.MAX_RECIPE
    assert SCHEMA["properties"]["__metadata__"]["properties"]["format_version"]["enum"] == list(
        parameter_file.READABLE_VERSIONS
    )
