"""What makes a file worth sharing: its recipe can be followed, its claims can be checked, a folder of them can be listed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dode import Entry, ModelInfo, ParameterFile, load_parameters, save_parameters
from dode.__main__ import main
from dode.cli import commands
from dode.errors import ParameterFileError
from dode.files import library
from tests.test_cli import OPTIONS

GUIDED = ["--model", "tests.test_cli:GuidedRing"]
FIT = ["--evaluations", "3,4", "--guidance", "1.5,2", "--samples", "128", "--seed", "5"]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shared") / "mine.safetensors"
    words = ["--author", "me", "--licence", "CC0-1.0", "--notes", "for the ring"]
    assert main(["distill", str(path), *GUIDED, *FIT, *words]) == 0
    return path


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shared") / "paper.safetensors"
    fit = [
        "--mode",
        "paper",
        "--method",
        "heun",
        "--substeps",
        "7",
        "--evaluations",
        "5",
        "--samples",
        "20",
        "--held-out",
        "0.3",
        "--no-guard",
    ]
    assert main(["distill", str(path), *OPTIONS, *fit]) == 0
    return path


def followed(recipe: dict[str, Any]) -> list[str]:
    """A command line out of nothing but a recipe."""
    command = recipe["tool"].split()
    assert command[:3] == ["python", "-m", "dode"]
    follows = ("tool", "torch", "teacher_steps", "teacher_schedule", "classes")  # from the others
    options = [name for name in recipe if name not in (*follows, "guard") and not name.startswith("freedom.")]
    words = {name: recipe[name] for name in options}
    text = {name: ",".join(map(str, value)) if isinstance(value, tuple) else str(value) for name, value in words.items()}
    switches = [] if recipe.get("guard", True) else ["--no-guard"]
    return [*command[3:], *switches, *(word for name, value in text.items() for word in ("--" + name.replace("_", "-"), value))]


@pytest.mark.parametrize("made", ["file", "paper"])
def test_the_recipe_is_enough_to_do_the_fit_again(made: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    content = load_parameters(request.getfixturevalue(made))
    command, *options = followed(dict(content.entries[0].recipe))
    assert main([command, str(tmp_path / "again.safetensors"), *options]) == 0
    again = load_parameters(tmp_path / "again.safetensors")
    for one, other in zip(content.entries, again.entries, strict=True):
        assert (one.parameters.sigmas, one.report, one.recipe) == (other.parameters.sigmas, other.report, other.recipe)
        np.testing.assert_array_equal(one.parameters.values, other.parameters.values)


def test_a_file_says_who_made_it_of_what_and_how_and_nothing_else(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = load_parameters(file)
    assert (content.author, content.licence, content.notes) == ("me", "CC0-1.0", "for the ring")
    assert content.software.startswith("dode ")
    recipe = content.entries[0].recipe
    assert (recipe["seed"], recipe["samples"], recipe["guidance"]) == (5, 128, (1.5, 2.0))
    assert recipe["freedom.taps"] == 3
    assert content.entries[0].report is not None
    assert str(file.parent) not in file.read_bytes().decode("latin-1")
    assert content.workflow == {}
    assert main(["info", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "Recipe: tool python -m dode distill; mode balanced" in shown


@pytest.mark.parametrize("made", ["file", "paper"])
def test_claims_are_measured_again(
    made: str, tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    path: Path = request.getfixturevalue(made)
    model = GUIDED if made == "file" else OPTIONS
    content = load_parameters(path)
    capsys.readouterr()  # what making the file has printed
    assert main(["check", str(path), *model]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2 : 2 + len(content.entries)]]
    for row, entry in zip(rows, content.entries, strict=True):
        assert entry.report is not None
        claimed, again = map(float, row[-2:])
        assert claimed == pytest.approx(entry.report.error_distilled, abs=1e-4)
        assert again == pytest.approx(claimed, rel=1e-2, abs=2e-4)

    entry = content.entries[0]
    assert entry.report is not None
    report = replace(entry.report, error_distilled=0.7 * entry.report.error_distilled)
    wrong = save_parameters(tmp_path / "wrong.safetensors", [replace(entry, report=report)])
    assert main(["check", str(wrong), *model]) == 1
    assert "1 of 1 claims do not hold" in capsys.readouterr().out
    # Of another checkpoint the file claims nothing, and without its recipe the samples are not known.
    for other in (
        replace(entry, report=report, recipe={}),
        replace(entry, report=report, model=ModelInfo("other", channels=4)),
    ):
        path = save_parameters(tmp_path / "other.safetensors", [other], overwrite=True)
        assert main(["check", str(path), *model]) == 0


def test_claims_on_classes_that_were_held_out_are_measured_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Seven classes do not divide 20 samples, so that the part of samples that judged is not the part of classes that did."""
    path = tmp_path / "classes.safetensors"
    options = ["--model", "tests.test_cli:ClassyRing", "--micro-batch", "8"]
    assert main(["distill", str(path), *options, "--samples", "20", "--mode", "paper", "--evaluations", "4"]) == 0
    entry = load_parameters(path).entries[0]
    assert (entry.recipe["classes"], entry.report and entry.report.held_out) == (7, 6)
    capsys.readouterr()
    assert main(["check", str(path), *options]) == 0
    claimed, again = map(float, capsys.readouterr().out.splitlines()[2].split()[-2:])
    assert again == pytest.approx(claimed, rel=1e-2, abs=2e-4)
    # A recipe that does not give so many judges says nothing of which they were.
    other = replace(entry, recipe={**entry.recipe, "held_out": 0.5})
    assert main(["check", str(save_parameters(tmp_path / "other.safetensors", [other])), *options]) == 0
    assert len(capsys.readouterr().out.splitlines()[2].split()) == 7


def test_a_folder_is_listed(file: Path, paper: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", str(tmp_path)]) == 0
    assert "no parameter files" in capsys.readouterr().out
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "mine.safetensors").write_bytes(file.read_bytes())
    (tmp_path / "paper.safetensors").write_bytes(paper.read_bytes())
    (tmp_path / "checkpoint.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}" + b"0" * (3 << 20))
    (tmp_path / "lora.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    assert main(["list", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "sub/mine.safetensors" in shown
    assert "CC0-1.0" in shown
    assert "checkpoint" not in shown
    assert "lora" not in shown

    assert main(["list", str(tmp_path), "--model", "embedded"]) == 0
    assert capsys.readouterr().out.count("no: fitted for the architecture") == 5
    assert main(["list", str(tmp_path), *OPTIONS]) == 0
    shown = capsys.readouterr().out
    assert "yes\n" in shown
    assert "no: fitted for the architecture 'GuidedRing'" in shown

    (tmp_path / "broken.safetensors").write_bytes(file.read_bytes()[:-8])
    assert main(["list", str(tmp_path)]) == 1
    assert "broken.safetensors: the tensors take" in capsys.readouterr().out
    assert main(["list", str(tmp_path), "--json", *OPTIONS]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [len(one["entries"]) for one in found["files"]] == [1, 4]
    assert found["files"][0]["fits"] == ["yes"]
    assert list(found["broken"]) == [str(tmp_path / "broken.safetensors")]
    assert main(["list", str(tmp_path / "nowhere")]) == 2


def test_each_guidance_scale_is_saved_when_it_is_fitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = tmp_path / "a.safetensors", commands.distill_students
    seen: list[int] = []

    def breaking(*args: Any, **named: Any) -> Any:
        if path.exists():
            seen.append(len(load_parameters(path).entries))
        if len(seen) == 2:
            raise KeyboardInterrupt
        return real(*args, **named)

    monkeypatch.setattr(commands, "distill_students", breaking)
    arguments = ["--evaluations", "3", "--guidance", "2,3,4", "--samples", "8", "--method", "dpmpp_2m"]
    assert main(["distill", str(path), *GUIDED, *arguments]) == 130
    assert seen == [1, 2]
    assert [entry.guidance for entry in load_parameters(path).entries] == [2, 3]


def test_a_name_that_is_taken_during_the_fit_stays_and_so_does_the_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, real = tmp_path / "a.safetensors", commands.distill_published
    monkeypatch.setattr(commands, "distill_published", lambda *a, **n: (path.write_text("mine"), real(*a, **n))[1])
    assert main(["distill", str(path), *OPTIONS, "--mode", "paper", "--samples", "8"]) == 0
    assert path.read_text() == "mine"
    assert len(load_parameters(tmp_path / "a_00002.safetensors").entries) == 1
    assert f"Saved as {tmp_path / 'a_00002.safetensors'}" in capsys.readouterr().out


def test_a_disk_that_fails_during_the_fit_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = library.save_numbered

    def full(path: Path, *more: Any) -> Path:
        if path.parent == tmp_path:
            raise ParameterFileError("the disk is full.")
        return real(path, *more)

    monkeypatch.setattr(library, "save_numbered", full)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "elsewhere"))
    command = ["distill", str(tmp_path / "a.safetensors"), *OPTIONS, "--mode", "paper", "--samples", "8"]
    assert main(command) == 0
    assert len(load_parameters(tmp_path / "elsewhere" / "a.safetensors").entries) == 1
    assert f"the disk is full. Saved as {tmp_path / 'elsewhere'}" in capsys.readouterr().out
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    assert main(command) == 1
    assert "NOT SAVED: the disk is full." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--notes", "x" * 10_001], "notes must be a text of at most 10000"),
        (["--evaluations", "4,5,6", "--guidance", ",".join(str(1 + i / 10) for i in range(100))], "at most 256 samplers"),
        (["--evaluations", "400,500,600"], "1024 rows in all; these would be 3 with 1500"),
    ],
)
def test_what_could_not_be_stored_is_said_before_the_fit(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "distill_students", None)
    assert main(["distill", str(tmp_path / "a.safetensors"), *GUIDED, *arguments]) == 2
    assert says in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_said_before_the_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["distill", str(tmp_path / "file" / "a.safetensors"), *OPTIONS]) == 2
    assert "no folder that you may write to" in capsys.readouterr().err


def test_words_of_one_entry_stay_with_it(file: Path, tmp_path: Path) -> None:
    """An entry taken out of a file and saved again keeps its recipe and its report."""
    entry: Entry = load_parameters(file).entries[1]
    found = load_parameters(save_parameters(tmp_path / "one.safetensors", ParameterFile((entry,)))).entries[0]
    assert (found.recipe, found.report, found.model) == (entry.recipe, entry.report, entry.model)
