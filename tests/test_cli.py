"""The command line: the whole job by commands, and one clear line for bad input."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dode import Guided, ParameterFile, load_parameters, sample, save_parameters
from dode.__main__ import build_parser, main
from dode.demo.mixture import GaussianMixture, ring

SPEC = "tests.test_cli:exact"


def exact() -> GaussianMixture:
    """A denoiser for --model."""
    return ring()


def exact_flow() -> GaussianMixture:
    return ring(flow=True)


class GuidedRing:
    """The ring against a plain Gaussian, with both outputs."""

    shape, sigma_min, sigma_max = (4,), 0.02, 20.0

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, guidance: Any, both: bool) -> torch.Tensor | Guided:
        null = x / (1 + sigma[:, None] ** 2)
        direction = ring()(x, sigma) - null
        denoised = null + guidance * direction
        return Guided(denoised, direction) if both else denoised

    def extra_args(self, guidance: float, both: bool = False) -> Callable[[torch.Tensor], dict[str, Any]]:
        return lambda samples: {"guidance": guidance, "both": both}


class ClassyRing(GuidedRing):
    """The same with seven classes, which are dealt to the samples in turn: each leans its own way."""

    classes = 7

    def extra_args(self, guidance: float, both: bool = False) -> Callable[[torch.Tensor], dict[str, Any]]:
        return lambda samples: {"guidance": guidance + 0.3 * (samples % 7)[:, None], "both": both}


def broken() -> None:
    raise OSError("no such checkpoint")


def not_a_denoiser() -> int:
    return 3


def with_arguments(path: str) -> str:
    return path


OPTIONS = ["--model", SPEC, "--shape", "4", "--sigma-min", "0.02", "--sigma-max", "20"]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "a.safetensors"
    arguments = [
        "distill",
        str(path),
        *OPTIONS,
        "--mode",
        "paper",
        "--method",
        "euler",
        "--evaluations",
        "4,6",
        "--samples",
        "32",
        "--author",
        "me",
        "--licence",
        "CC0-1.0",
    ]
    assert main(arguments) == 0
    return path


def test_distill_writes_an_entry_for_each_number_of_evaluations(file: Path) -> None:
    content = load_parameters(file)
    assert [e.evaluations for e in content.entries] == [4, 6]
    assert (content.author, content.licence) == ("me", "CC0-1.0")
    for entry in content.entries:
        assert entry.report is not None
        assert entry.report.error_distilled < entry.report.error_base
        assert entry.model.name == SPEC


def test_without_guard_every_correction_stays(tmp_path: Path) -> None:
    """On few samples the guard has something to drop; the published fit keeps it, and the recipe says which it was."""
    few = [*OPTIONS, "--mode", "paper", "--method", "D-iPNDM", "--evaluations", "5", "--samples", "4", "--substeps", "4"]
    found = {}
    for name, switch in (("guarded", []), ("published", ["--no-guard"])):
        path = tmp_path / f"{name}.safetensors"
        assert main(["distill", str(path), *few, *switch]) == 0
        (found[name],) = load_parameters(path).entries
    guarded, published = (found[name] for name in ("guarded", "published"))
    assert min(guarded.report.kept) < 1
    assert set(published.report.kept) == {1.0}
    assert published.report.strength == 1
    assert published.recipe["guard"] is False
    assert "guard" not in guarded.recipe


def test_flow_models_and_other_solvers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "flow.safetensors"
    arguments = [
        "distill",
        str(path),
        "--model",
        "tests.test_cli:exact_flow",
        "--shape",
        "4",
        "--schedule",
        "linear",
        "--mode",
        "paper",
    ]
    assert main([*arguments, "--method", "ipndm", "--order", "2", "--samples", "24"]) == 0
    entry = load_parameters(path).entries[0]
    assert (entry.parameters.method, entry.parameters.order, entry.parameters.coordinate) == ("ipndm", 2, "flow")
    assert entry.model.prediction == "flow"
    assert entry.parameters.sigmas[0] == 1
    assert "Saved" in capsys.readouterr().out


def test_sample_gives_what_the_library_gives(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "latents.safetensors"
    assert main(["sample", str(out), *OPTIONS, "--parameters", str(file), "--count", "5", "--seed", "7"]) == 0
    latents = load_file(out)["latents"]
    parameters = load_parameters(file).entries[1].parameters
    generator = torch.Generator().manual_seed(7)
    x = torch.stack([torch.randn(4, generator=generator) for _ in range(5)]) * parameters.sigmas[0]
    assert torch.equal(latents, sample(ring(), x, parameters.tableau()))
    other = tmp_path / "base.safetensors"
    assert main(["sample", str(other), *OPTIONS, "--count", "5", "--seed", "7"]) == 0
    assert not torch.equal(latents, load_file(other)["latents"])
    zero = tmp_path / "zero.safetensors"
    assert (
        main(["sample", str(zero), *OPTIONS, "--parameters", str(file), "--strength", "0", "--count", "5", "--seed", "7"]) == 0
    )
    assert torch.equal(load_file(zero)["latents"], load_file(other)["latents"])


def test_info_says_everything(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(file)]) == 0
    text = capsys.readouterr().out
    for part in ("author: me", "euler, 6 steps", "6 evaluations", "held out", "λ (", SPEC, "10 substeps"):
        assert part in text
    assert main(["info", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["entries"][1]["parameters"]["values"] == load_parameters(file).entries[1].parameters.values.tolist()
    assert found["entries"][1]["evaluations"] == 6
    assert found["entries"][0]["report"]["teacher"]["method"] == "euler"


def test_check_measures_the_claim_and_fails_when_it_is_false(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(file), *OPTIONS]) == 0
    assert "claimed" in capsys.readouterr().out
    content = load_parameters(file)
    entry = content.entries[0]
    wrong = type(entry.parameters)("euler", 1, "data", entry.parameters.sigmas, -3 * entry.parameters.values)
    path = save_parameters(tmp_path / "wrong.safetensors", ParameterFile((type(entry)(wrong, entry.model, 1.0, entry.report),)))
    assert main(["check", str(path), *OPTIONS]) == 1
    assert "worse than their base" in capsys.readouterr().out
    assert main(["check", str(file), *OPTIONS, "--seed", "0"]) == 2


def test_plot_and_picture_sheet(file: Path, tmp_path: Path) -> None:
    png = tmp_path / "plot.png"
    assert main(["plot", str(file), "--output", str(png)]) == 0
    assert png.read_bytes().startswith(b"\x89PNG")
    assert main(["plot", str(file), "--output", str(png)]) == 2
    assert main(["plot", str(file), "--output", str(png), "--overwrite"]) == 0
    sheet = tmp_path / "sheet.png"
    assert main(["sample", str(sheet), "--count", "2", "--evaluations", "2"]) == 0
    assert sheet.read_bytes().startswith(b"\x89PNG")


def test_methods_lists_every_solver(capsys: pytest.CaptureFixture[str]) -> None:
    from dode import METHODS

    assert main(["methods"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in METHODS)


BAD = [
    (["info", "missing.safetensors"], "could not be read"),
    (["info", "{file}/x"], "could not be read"),
    (["distill", "{new}", "--method", "eulre"], "Unknown solver 'eulre'"),
    (["distill", "{new}", "--mode", "paper", "--order", "3"], "Order 3 belongs to a solver"),
    (["distill", "{new}", "--mode", "paper", "--method", "ddim", "--order", "3"], "no order 3"),
    (["distill", "{new}", "--no-guard"], "--no-guard belong to --mode paper"),
    (["distill", "{new}.pt"], "end in .safetensors"),
    (["distill", "{file}"], "exists already"),
    (["distill", "{new}", "--samples", "1"], "at least 2"),
    (["distill", "{new}", "--mode", "paper", "--substeps", "0", "--samples", "4"], "substeps"),
    (["distill", "{new}", "--order", "1"], "belong to --mode paper"),
    (["distill", "{new}", "--substeps", "4"], "needs --teacher"),
    (["distill", "{new}", "--held-out", "2", "--samples", "4"], "held_out"),
    (["distill", "{new}", "--teacher", "dpm"], "Unknown solver 'dpm'"),
    (["distill", "{new}", "--sigma-min", "9", "--sigma-max", "1"], "sigma_min < sigma_max"),
    (["distill", "{new}", "--model", "nowhere"], "package.module:function"),
    (["distill", "{new}", "--model", "nowhere.at_all:f"], "cannot be imported"),
    (["distill", "{new}", "--model", "tests.test_cli:nothing"], "has no function"),
    (["distill", "{new}", "--model", "tests.test_cli:broken"], "no such checkpoint"),
    (["distill", "{new}", "--model", "tests.test_cli:not_a_denoiser"], "not a denoiser"),
    (["distill", "{new}", "--model", "tests.test_cli:with_arguments"], "takes arguments"),
    (["distill", "{new}", "--model", SPEC], "--shape"),
    (["distill", "{new}", "--model", SPEC, "--shape", "4"], "--sigma-min"),
    (["distill", "{new}", *OPTIONS, "--guidance", "3"], "--guidance 3"),
    (["sample", "{new}.jpg"], "OUT must end"),
    (["sample", "{file}"], "exists already"),
    (["sample", "{new}", "--parameters", "{file}", "--evaluations", "9"], "It has: euler 4, euler 6"),
    (["sample", "{new}", "--count", "0"], "at least 1"),
    (["sample", "{new}.png", *OPTIONS, "--count", "1"], r"shape (3, H, W)"),
    (["check", "{file}", "--count", "0"], "at least 1"),
    (["demo", "--samples", "3"], "at least 8"),
]


@pytest.mark.parametrize(("arguments", "says"), BAD, ids=[f"{a[0]} {s}" for a, s in BAD])
def test_bad_input_gets_one_clear_line(
    arguments: list[str], says: str, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new"
    filled = [
        a.replace("{file}", str(file)).replace("{new}.", f"{new}.").replace("{new}", f"{new}.safetensors") for a in arguments
    ]
    before = file.read_bytes()
    assert main(filled) == 2
    captured = capsys.readouterr()
    line = captured.err.strip().splitlines()[-1]
    assert line.startswith("dode: ")
    assert says in line
    assert not list(tmp_path.iterdir()), "something was left behind"
    assert file.read_bytes() == before


def test_a_model_of_another_kind_is_refused_and_a_differing_one_is_noted(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(file)]) == 2
    assert "channels 4" in capsys.readouterr().err
    entry = load_parameters(file).entries[1]
    renamed = type(entry)(entry.parameters, type(entry.model)("other model", channels=4), 3.0)
    path = save_parameters(tmp_path / "renamed.safetensors", [renamed])
    assert main(["sample", str(tmp_path / "o.safetensors"), *OPTIONS, "--parameters", str(path)]) == 0
    out = capsys.readouterr().out
    assert "fitted on 'other model'" in out
    assert "guidance 3" in out


def test_every_option_has_help() -> None:
    parser = build_parser()
    for command in parser._subparsers._group_actions[0].choices.values():  # type: ignore[union-attr]
        assert command.description, command.prog
        for action in command._actions:
            assert action.help or action.metavar == "FILE", f"{command.prog} {action.dest}"


def test_the_usual_mode_brings_its_own_noise_levels_and_scales_between_are_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "refined.safetensors"
    model = ["--model", "tests.test_cli:GuidedRing"]
    assert main(["distill", str(path), *model, "--evaluations", "3,4", "--guidance", "2,2.5", "--samples", "32"]) == 0
    entries = load_parameters(path).entries
    assert [(entry.evaluations, entry.guidance) for entry in entries] == [(3, 2), (4, 2), (3, 2.5), (4, 2.5)]
    low, _, high, _ = entries
    assert low.parameters.guidance is not None
    assert low.report is not None
    assert low.report.error_distilled < low.report.error_base
    assert low.parameters.sigmas != high.parameters.sigmas
    drawn = []
    for scale in ("2", "2.25", "2.5"):
        out = tmp_path / f"{scale}.safetensors"
        arguments = ["sample", str(out), *model, "--parameters", str(path), "--evaluations", "3", "--count", "2"]
        assert main([*arguments, "--guidance", scale]) == 0
        drawn.append(load_file(out)["latents"])
    assert all(torch.isfinite(x).all() for x in drawn)
    assert (drawn[1] - drawn[0]).abs().max() > 1e-3
    capsys.readouterr()
    assert main([*arguments, "--guidance", "5", "--overwrite"]) == 2
    assert "guidance 2 to 2.5, this is 5" in capsys.readouterr().err
    assert main(["info", str(path)]) == 0
    assert "γ (" in capsys.readouterr().out
    assert main(["info", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["entries"][0]["parameters"]["guidance"] == low.parameters.guidance.tolist()
    assert main(["plot", str(path), "--output", str(tmp_path / "plot.png")]) == 0
