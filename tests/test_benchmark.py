"""The benchmark of quality: its models are what they say, and its pieces fit together."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.models.bench_models import MODELS, BenchModel, exemplars, gaussians, joined
from benchmarks.models.photos import patches
from benchmarks.models.prompts import COUNT, Draw, drawings, prompts
from benchmarks.models.sparse import sparse
from benchmarks.models.trained import TRAINED, trained_network, weights
from benchmarks.paper import comparison as paper
from benchmarks.paper.studies import draw, path_of
from benchmarks.quality.cells import (
    Plan,
    described,
    fit,
    ratio_interval,
    restored,
    run_each,
    run_parameters,
    score,
    squares,
    trial,
)
from benchmarks.quality.plots import error_over
from benchmarks.quality.report import geometric_mean, markdown, merged
from benchmarks.quality.stock_search import candidates, left_out, run_stock, run_table, search
from benchmarks.quality.studies.parts import CHANGES
from benchmarks.quality.studies.residual import DESIGNS, correction
from benchmarks.reports import as_json
from dode.correction import Parameters
from dode.fit.all_numbers import MODES
from dode.fit.free_parameters import Freedom
from dode.fit.held_out import rms
from dode.methods import build_tableau
from dode.schedules import schedule
from dode.teacher import Teacher

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def flow() -> BenchModel:
    return replace(gaussians(CPU), looks=(2, 4), reference_steps=120)


def _score_of(model: BenchModel, x: Tensor, sigma: float, both: bool) -> Tensor:
    labels = torch.arange(len(x)) % 8
    found = model.outputs(x, torch.full((len(x),), sigma), labels, True)[int(both)]
    assert found is not None
    return found


@pytest.mark.parametrize("name", MODELS)
def test_every_model_gives_finite_outputs_and_the_same_again(name: str) -> None:
    model, again = MODELS[name](CPU), MODELS[name](CPU)
    assert model.name == name
    labels, x = torch.tensor(model.test_prompts[:4]), model.noise(4, 3)
    for level in (model.sigma_min, 0.1 * model.sigma_max, model.sigma_max):
        sigma = torch.full((4,), level)
        found = [output for output in model.outputs(level * x, sigma, labels, True) if output is not None]
        assert [output.shape for output in found] == [x.shape] * 2
        assert all(bool(output.isfinite().all()) for output in found)
        wanted = again.outputs(level * x, sigma, labels, True)
        assert all(torch.equal(mine, its) for mine, its in zip(found, wanted, strict=True) if its is not None)


@pytest.mark.parametrize("name", TRAINED)
def test_trained_models_are_small_and_their_prompts_distinct(name: str) -> None:
    assert weights(name).stat().st_size <= 2e6
    contexts = trained_network(name)[1]
    assert len(contexts) == (2 * COUNT if TRAINED[name].describe else 8)
    assert len(torch.unique(contexts, dim=0)) == len(contexts)
    assert (contexts[:, :8].argmax(1) == torch.arange(len(contexts)) % 8).all()
    model = MODELS[name](CPU)
    assert set(model.fit_prompts).isdisjoint(model.test_prompts) == model.new_prompts


@pytest.mark.parametrize("draw", [drawings, patches, sparse])
def test_pictures_to_train_on_come_out_the_same_again(draw: Draw) -> None:
    labels = torch.arange(64) % 8
    pictures, again, others = (draw(labels, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(pictures, again)
    assert pictures.shape == (64, 3, 16, 16)
    assert pictures.min() >= -1
    assert pictures.max() <= (5 if draw is sparse else 1)
    assert rms(pictures, others) > 0.1


def test_stored_prompts_are_those_of_the_photographs() -> None:
    assert rms(trained_network("photos")[1], TRAINED["photos"].prompts()) < 1e-2  # decoders of JPEG differ a little


def test_sparse_pictures_are_mostly_black_with_heavy_tails() -> None:
    light = sparse(torch.arange(1600) % 8, torch.Generator().manual_seed(0)) + 1
    brightest = light.amax((1, 2, 3))
    assert float((light < 0.1).float().mean()) > 0.8
    assert float(brightest.quantile(0.98) / brightest.median()) > 2.5
    total = light.sum((1, 2, 3)).view(-1, 8).mean(0)
    assert total[3] > 3 * total[0]  # five points and one


@pytest.mark.parametrize("build", [gaussians, exemplars])
def test_exact_models_end_where_they_must(build: Callable[[torch.device], BenchModel]) -> None:
    """At σ near 0 the denoised picture is the input; at the top it is close to the class's mean, whatever the noise."""
    model = build(CPU)
    x = model.noise(8, 3)
    assert rms(_score_of(model, x, 1e-3, False), x / (1 - 1e-3 * (model.coordinate == "flow"))) < 5e-2
    top = x * model.sigma_max
    other = model.noise(8, 4) * model.sigma_max
    assert rms(_score_of(model, top, model.sigma_max, False), _score_of(model, other, model.sigma_max, False)) < 0.4


def test_closed_form_is_the_gradient_of_the_density(flow: BenchModel) -> None:
    """Tweedie: (1 - σ) D = x + σ² ∇ log p; here that the Jacobian of D is symmetric, as that of a gradient must be."""
    x = flow.noise(1, 5)
    labels = torch.tensor([2])

    def denoise(y: Tensor) -> Tensor:
        return flow.outputs(y, torch.tensor([0.6]), labels, True)[1]  # type: ignore[return-value]

    jacobian = torch.autograd.functional.jacobian(denoise, x).view(768, 768)
    assert float((jacobian - jacobian.T).abs().max()) < 1e-5 * float(jacobian.abs().max())


def test_table_and_stock_function_agree(flow: BenchModel) -> None:
    noise, extra = flow.noise(2, 1000), flow.extra_args(flow.fit_prompts)
    for candidate in candidates(flow, 4)[::60]:
        wanted, calls = run_stock(flow, 3.0, candidate, noise, extra)
        assert calls <= 4, candidate.name
        assert rms(run_table(flow, 3.0, candidate.tableau, noise, extra), wanted) < 1e-3, candidate.name


def test_one_cell(flow: BenchModel) -> None:
    plan = Plan((4,), (3.0,), (), 8, 4)
    on = trial(flow, 3.0, plan)
    assert on.reference_error < 0.01
    best = search(flow, 3.0, 4, on.noise, on.reference, on.extra_args)
    assert best.calls <= 4
    assert best.competitors > 300
    found = score(best.samples, on.reference, best.samples)
    assert found["ratio"] == pytest.approx(1)
    assert found["error"] == pytest.approx(min(best.finalists.values()), rel=1e-6)


def test_each_class_is_tested_with_the_fit_that_leaves_it_out(flow: BenchModel) -> None:
    plan = Plan((2,), (3.0,), (), 8, 16, rotation=((1, 0), (2, 3, 4, 5, 6, 7)))
    (_, first), (_, second) = plan.turns(flow)
    assert first == (2, 3, 4, 5, 6, 7)
    assert second == (0, 1)
    on = trial(flow, 3.0, plan)
    grids = (80.0, 1.0, 0.0), (80.0, 4.0, 0.0)
    found = [Parameters("euler", 1, "data", tuple(s / 80 * flow.sigma_max for s in grid), [[0.0], [0.1]]) for grid in grids]  # type: ignore[arg-type]
    one, other = (run_parameters(on, parameters, 2) for parameters in found)
    left_out_first = torch.arange(16) % 8 < 2
    wanted = torch.where(left_out_first[:, None, None, None], one, other)
    assert rms(run_each(on, plan, found, 2), wanted) < 1e-6 * rms(one, other)
    with pytest.raises(ValueError, match="zip"):
        run_each(on, plan, found[:1], 2)
    few = replace(plan, fit_samples=12, fit_prompts=first)
    (fitted,) = fit(flow, 3.0, few, Freedom(rounds=0), solvers=("ipndm",), teacher=Teacher("ipndm", 4, 1))
    assert fitted.report.held_out == 4  # two of six classes, where a quarter of the samples would be three


def test_prompts_of_the_test_are_new_to_the_fit() -> None:
    model = MODELS["eps-prompts"](CPU)
    plan = Plan((2,), (3.0,), (), 64, 64, rotation=((6, 7), (0, 1, 2, 3, 4, 5)))
    fitted = model.extra_args(model.fit_prompts)(torch.arange(64))["labels"]
    tested = trial(replace(model, reference_steps=2), 3.0, plan).extra_args(torch.arange(64))["labels"]
    assert not set(fitted.tolist()) & set(tested.tolist())
    assert len(set(tested.tolist())) == 64
    contexts = prompts()
    assert len(torch.unique(contexts, dim=0)) == len(contexts)
    assert (contexts[:, :8].argmax(1) == torch.arange(len(contexts)) % 8).all()
    assert plan.turns(model) == [(model.test_prompts, model.fit_prompts)]  # no class need be left out


@pytest.mark.parametrize("name", [name for name, kind in TRAINED.items() if kind.describe])
def test_a_prompt_says_what_a_picture_shows(name: str) -> None:
    """Samples of a trained model show what their prompts name, and not what other prompts do."""
    model, contexts, describe = MODELS[name](CPU), trained_network(name)[1][:16], TRAINED[name].describe
    assert describe is not None
    grid = schedule("linear" if model.coordinate == "flow" else "karras", 20, *model.sigma_range)
    made = run_table(model, 1.0, build_tableau("ipndm", grid), model.noise(16, 3), model.extra_args(tuple(range(16))))
    shown = describe(made, torch.arange(16) % 8)
    bound = 0.3 if model.coordinate == "flow" else 0.75  # a predicted noise says little of mean colours where σ is large
    assert rms(shown, contexts) < bound * rms(shown, contexts.roll(8, dims=0))  # those are other prompts of the same class


@pytest.mark.parametrize("values", [[8, 16], ["ipndm x 6", "dpmpp_3m x 6"]])
def test_error_over_a_setting_is_drawn(values: list[Any], tmp_path: Path) -> None:
    shared = {"model": "eps", "guidance": 3.0, "NFE": 4, "mode": "balanced", "error": 0.1}
    path = error_over([{**shared, "setting": value} for value in values], "setting", tmp_path / "plot.png")
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", DESIGNS)
def test_further_weights_find_what_they_can(name: str) -> None:
    """All can take a multiple of one output away; what differs by channel only those that weigh channels apart."""
    maps = torch.randn(6, 3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    known, tested = maps[:4], maps[4:]
    for apart, scale in ((False, torch.ones(3)), (True, torch.tensor([1.0, -1.0, 0.5]))):
        missed = 0.3 * maps[:, 1] * scale.view(3, 1, 1)
        left = rms(missed[4:], correction(DESIGNS[name], (known, missed[:4]), tested)) / rms(missed, 0 * missed)
        assert (left > 0.5) if apart and name == "a weight for each output" else (left < 0.05)


def test_report_and_records() -> None:
    distilled = {"error": 0.1, "psnr": 26.0, "median": 0.09, "ratio": 0.5, "interval": [0.4, 0.6]}
    stock = {"name": "euler karras", "error": 0.2, "psnr": 20.0, "median": 0.19}
    cell = {"model": "m", "guidance": 1.0, "evaluations": 4, "reference_error": 1e-4, "stock": stock}
    part = {"command": "c", "machine": "x", "samples": "y", "seconds": 60.0}
    result = {"parts": [part], "cells": [{**cell, "distilled": {"best": distilled}}], "left_out": left_out()}
    assert "**0.500**" in markdown(result)
    assert "dpm_adaptive" in result["left_out"]
    assert geometric_mean([0.5, 2.0]) == pytest.approx(1)
    parameters = Parameters("euler", 1, "data", (3.0, 1.0, 0.0), [[0.0], [0.25]])  # type: ignore[arg-type]
    again = restored(described(parameters))
    assert again.sigmas == parameters.sigmas
    assert (again.values == parameters.values).all()


def test_interval_of_a_ratio() -> None:
    mine, others = torch.rand(64, 10, dtype=torch.float64), torch.rand(64, 10, dtype=torch.float64)
    low, high = ratio_interval(squares(mine, 0 * mine), squares(others, 0 * others))
    assert low < rms(mine, 0 * mine) / rms(others, 0 * others) < high


def test_reports_of_the_same_cell_become_one_with_all_modes(tmp_path: Path) -> None:
    def report(name: str, cells: list[tuple[int, str, float]]) -> Path:
        content = {
            "parts": [{"command": name}],
            "left_out": {},
            "cells": [
                {"model": "eps", "guidance": 1.0, "evaluations": n, "distilled": {mode: {"error": error}}}
                for n, mode, error in cells
            ],
        }
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(content))
        return path

    found = merged([report("a", [(4, "balanced", 0.3), (6, "balanced", 0.2)]), report("b", [(4, "best", 0.1)])])
    assert [(c["evaluations"], {mode: d["error"] for mode, d in c["distilled"].items()}) for c in found["cells"]] == [
        (4, {"balanced": 0.3, "best": 0.1}),
        (6, {"balanced": 0.2}),
    ]
    assert [part["command"] for part in found["parts"]] == ["a", "b"]
    again = merged([report("a", [(4, "balanced", 0.3)]), report("c", [(4, "balanced", 0.25)])])
    assert again["cells"][0]["distilled"] == {"balanced": {"error": 0.25}}


def test_the_paper_s_table_has_each_solver_as_published_and_with_one_thing_changed(flow: BenchModel) -> None:
    plan = Plan((5,), (1.0,), (), fit_samples=8, test_samples=4)
    rows = {row["solver"]: row for row in paper.rows(flow, 1.0, plan, paper.SOLVERS, None, 0)}
    assert len(rows) == len(paper.SOLVERS)
    assert all(row["used"] <= 5 and row["D-"] > 0 and row["guarded"] > 0 for row in rows.values())
    changed = [solver for solver in paper.SOLVERS if solver.differs]
    assert all(rows[solver.label()]["D-"] != rows[solver.name]["D-"] for solver in changed)
    assert rows["EDM"]["plain"] == rows["EDM, Heun's teacher"]["plain"]


def test_trajectories_are_drawn(flow: BenchModel, tmp_path: Path) -> None:
    plan = Plan((), (1.0,), (), fit_samples=8, test_samples=4)
    path = draw(flow, 1.0, plan, paper.SOLVERS[0], 5, None, tmp_path / "trajectory.png")
    assert path.stat().st_size > 10_000
    states = path_of(flow, 1.0, build_tableau("euler", schedule("linear", 5, flow.sigma_min, flow.sigma_max)), 0)
    assert len(states) == 6


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_every_part_that_a_study_takes_away_is_there(change: dict[str, Any]) -> None:
    freedom = Freedom(**{key: value for key, value in change.items() if key != "groups"})
    assert (freedom == MODES["balanced"]) == (set(change) <= {"groups"})


def test_a_report_has_a_line_a_row_and_no_more_digits_than_it_is_good_for() -> None:
    rows = [{"error": 0.12345678, "pair": "euler karras", "sigmas": [14.614643, 0.0]}, {"error": None}]
    text = as_json({"command": "python", "rows": rows})
    assert json.loads(text)["rows"][0] == {"error": 0.123457, "pair": "euler karras", "sigmas": [14.6146, 0.0]}
    assert len(text.splitlines()) == 2 + 1 + 2 + 2


def test_models_joined_are_each_called_with_their_own_samples() -> None:
    two = [exemplars(CPU), gaussians(CPU)]
    both = joined(two)
    noise, labels = both.noise(6, 0), both.extra_args(both.fit_prompts)(torch.arange(6))["labels"]
    sigma = torch.full((6,), 3.0)
    found = both.fit_denoiser(2.0)(3 * noise, sigma, labels)
    for i in range(6):
        own = two[i % 2].fit_denoiser(2.0)(3 * noise[i : i + 1], sigma[:1], torch.tensor([i // 2]))
        for mine, its in zip(found, own, strict=True):
            torch.testing.assert_close(mine[i : i + 1], its, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="not of one shape"):
        joined([two[0], replace(two[1], sigma_max=80.0)])
