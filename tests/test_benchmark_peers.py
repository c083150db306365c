"""Published peers of the fit: their pieces do what the papers say, they lower their own error, and count what they spend."""

import argparse
import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.models.bench_models import BenchModel
from benchmarks.peers.bespoke import AllNumbers, bespoke, preconditioner
from benchmarks.peers.differentiable import Spending, dense_weights, softened, solver_on
from benchmarks.peers.published import (
    Discretization,
    cheapest_path,
    compensated,
    dc_solver,
    gits,
    ld3,
    mean_squares,
    step_costs,
    teacher_ends,
)
from benchmarks.quality.cells import Plan, described
from benchmarks.quality.studies import budget, limit
from dode.correction import Parameters
from dode.methods import build_tableau
from dode.sampling import sample
from dode.schedules import schedule
from dode.tableau import Tableau

POINTS = torch.randn(6, 1, 2, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
TEACHER = 9 * 6 + 1  # evaluations of 60 steps on this grid


def _outputs(x: Tensor, sigma: Tensor, labels: Tensor, both: bool) -> tuple[Tensor, Tensor | None]:
    """Posterior means for six blurred points in six dimensions; those of a label are the even or the odd ones."""
    points, variance = POINTS.to(x), sigma.to(x)[:, None] ** 2 + 0.04
    near = -(x.flatten(1)[:, None] - points.flatten(1)).square().sum(2) / (2 * variance)

    def mean(log_weight: Tensor) -> Tensor:
        part = (0.04 / variance).view(-1, 1, 1, 1)
        return x * part + (1 - part) * torch.einsum("bk,kchw->bchw", log_weight.softmax(1), points)

    own = torch.arange(6)[None, :] % 2 == labels[:, None]
    return mean(near.masked_fill(~own, -1e9)), mean(near) if both else None


MODEL = BenchModel("tiny", (1, 2, 3), 0.03, 10.0, "log_sigma", "eps", _outputs, torch.device("cpu"), (2, 4), 40, (0, 1), (0, 1))


def _spending(samples: int = 8, guidance: float = 2.0) -> Spending:
    return Spending(MODEL, guidance, MODEL.noise(samples, 0).double(), MODEL.extra_args(MODEL.fit_prompts))


def _start(steps: int = 4, method: str = "ipndm", order: int | None = 2) -> Tableau:
    return build_tableau(method, schedule("karras", steps, *MODEL.sigma_range), order)


def _error(on: Spending, tableau: Tableau) -> float:
    everything = torch.arange(len(on.noise))
    fresh = Spending(on.model, on.guidance, on.noise, on.extra_args)
    return float(mean_squares(fresh.ends_of(tableau, everything), teacher_ends(fresh, 60)).mean())


def _moved(start: Tableau, seed: int = 1) -> tuple[AllNumbers, Tensor]:
    numbers = AllNumbers(start, True, MODEL.sigma_range)
    theta = 0.05 * torch.randn(numbers.size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return numbers, numbers.inside(theta)


@pytest.mark.parametrize("method", ["ipndm", "dpmpp_2m", "uni_pc_bh2", "deis"])
def test_a_soft_table_is_the_table(method: str) -> None:
    on, tableau = _spending(), _start(4, method, None)
    samples = torch.arange(8)
    wanted = sample(MODEL.denoiser(2.0), on.noise * tableau.sigma, tableau, extra_args=on.extra_args(samples))
    assert torch.allclose(on.ends(softened(tableau), samples), wanted, rtol=0, atol=1e-6)
    assert on.forward == 8 * tableau.evaluations == 32
    assert on.backward == 0
    again = softened(tableau).hardened()
    assert np.allclose(dense_weights(again), dense_weights(tableau), rtol=0, atol=1e-12)


def test_all_numbers_start_at_the_table_and_end_as_one() -> None:
    start = _start()
    numbers, theta = _moved(start)
    assert numbers.size == 6 + 10 + 4 + 4
    same = numbers.table(torch.zeros_like(theta)).hardened()
    assert np.allclose(dense_weights(same), dense_weights(start), rtol=0, atol=1e-12)
    on, samples = _spending(), torch.arange(8)
    table = numbers.table(theta)
    tableau = table.hardened()
    assert tableau.guided
    assert tableau.model_sigmas is not None
    assert tableau.evaluations == 4
    wanted = sample(MODEL.fit_denoiser(2.0), on.noise * tableau.sigma, tableau, extra_args=on.extra_args(samples))
    assert torch.allclose(on.ends(table, samples), wanted, rtol=0, atol=1e-6)
    assert not torch.allclose(on.ends(softened(start), samples), wanted, rtol=0, atol=1e-3)
    again = AllNumbers(tableau, True, MODEL.sigma_range)  # from a table that has everything
    assert torch.allclose(on.ends(again.table(torch.zeros_like(theta)), samples), wanted, rtol=0, atol=1e-6)


def test_noise_levels_stay_in_the_models_range() -> None:
    numbers, _ = _moved(_start())
    far = torch.full((numbers.size,), 9.0, dtype=torch.float64)
    told = numbers.table(far).hardened()
    assert max(told.evaluation_sigmas) <= MODEL.sigma_max * (1 + 1e-12)
    inside = numbers.inside(far)
    assert max(numbers.table(inside).model_sigmas.tolist()) <= MODEL.sigma_max * (1 + 1e-12)
    assert torch.equal(inside[:16], far[:16])  # the others are free


def test_gradients_agree_with_finite_differences() -> None:
    on, samples = _spending(4), torch.arange(4)
    ends = teacher_ends(on, 60)
    numbers, theta = _moved(_start())

    def loss(theta: Tensor) -> Tensor:
        return mean_squares(on.ends(numbers.table(theta), samples), ends).mean()

    theta.requires_grad_()
    (slope,) = torch.autograd.grad(loss(theta), theta)
    with torch.no_grad():
        for p in range(numbers.size):
            step = 1e-5 * torch.eye(numbers.size, dtype=torch.float64)[p]
            found = float(loss(theta + step) - loss(theta - step)) / 2e-5
            assert float(slope[p]) == pytest.approx(found, rel=1e-4, abs=1e-7), p


@pytest.mark.parametrize("method", ["ipndm", "dpmpp_2m"])
def test_a_solver_is_differentiable_by_its_grid(method: str) -> None:
    on, samples = _spending(4), torch.arange(4)
    levels = torch.tensor(_start().evaluation_sigmas, dtype=torch.float64, requires_grad=True)

    def loss(levels: Tensor) -> Tensor:
        return on.ends(solver_on(method, 2, "log_sigma", levels, 0.9 * levels), samples).square().mean()

    (slope,) = torch.autograd.grad(loss(levels), levels)
    with torch.no_grad():
        for i in range(4):
            step = 1e-5 * levels[i] * torch.eye(4, dtype=torch.float64)[i]
            found = float((loss(levels + step) - loss(levels - step)) / (2e-5 * levels[i]))
            assert float(slope[i]) == pytest.approx(found, rel=1e-3), i


@pytest.mark.parametrize("discount", [1.0, 1.15])
def test_the_grid_of_dynamic_programming_is_the_best(discount: float) -> None:
    costs = np.full((8, 8), np.inf)
    upper = np.triu_indices(8, 1)
    costs[upper] = np.random.default_rng(0).normal(1, 1, len(upper[0]))  # "dev" gives negative ones too
    for steps in (1, 3, 7):

        def total(nodes: tuple[int, ...]) -> float:
            return sum(discount**k * costs[pair] for k, pair in enumerate(itertools.pairwise(nodes)))

        choices = [(0, *inner, 7) for inner in itertools.combinations(range(1, 7), steps - 1)]
        assert tuple(cheapest_path(costs, steps, discount)) == min(choices, key=total)


def test_a_step_along_a_straight_line_costs_nothing() -> None:
    grid = np.array([8.0, 4.0, 1.0, 0.0])
    slope = torch.randn(2, 6, dtype=torch.float64)
    points = torch.stack([float(sigma) * slope for sigma in grid])
    for metric in ("dev", "l2"):
        costs = step_costs(grid, points, slope.expand(3, 2, 6), metric)
        assert np.abs(costs[np.triu_indices(4, 1)]).max() < 1e-12
        assert np.isinf(costs[np.tril_indices(4)]).all()


def test_compensation_is_an_interpolation() -> None:
    base = _start(5, "uni_pc_bh2", None)
    ones = torch.ones(5, dtype=torch.float64)
    assert np.allclose(dense_weights(compensated(base, ones).hardened()), dense_weights(base), rtol=0, atol=1e-12)
    tableau = compensated(
        base, torch.tensor([1.0, 1.0, 0.0, 1.2, 0.9], dtype=torch.float64)
    ).hardened()  # consistent, or it raises
    assert tableau.evaluations == 5
    # At ratio 0 the third step takes the second output for the third.
    assert dense_weights(tableau)[4][2] == pytest.approx(0, abs=1e-12)
    assert dense_weights(tableau)[4][1] == pytest.approx(dense_weights(base)[4][1] + dense_weights(base)[4][2])


def test_gits_counts_its_teacher_and_its_choice() -> None:
    on = _spending(8)
    found = gits(on, 4, teacher_steps=20, solvers=(("euler", 1), ("ipndm", 2)), discounts=(1.0,), metrics=("l2",))
    assert found.tableau.evaluations == 4
    assert found.forward == 8 * 20 + 2 * 8 * 4
    assert found.backward == 0
    nodes = schedule("karras", 20, *MODEL.sigma_range)
    assert set(found.tableau.sigmas) <= set(nodes.tolist())
    assert _error(on, found.tableau) < _error(on, _start(4, "euler", None))


def test_dc_solver_lowers_its_error() -> None:
    on, base = _spending(6), _start(5, "uni_pc_bh2", None)
    found = dc_solver(on, [base], teacher_steps=50, iterations=10)
    assert found.tableau.evaluations == 5
    assert _error(on, found.tableau) < _error(on, base)
    # Two ratios are fitted through a correction, one evaluation each time; the last step makes none.
    assert found.backward == 6 * 2 * 10
    teacher = 6 * (4 * 10 + 1)  # nothing is subdivided below the model's lowest noise level
    assert found.forward == teacher + found.backward + 6 * 5
    assert found.evaluations == found.forward + 2 * found.backward


def test_ld3_lowers_its_error() -> None:
    on, grid = _spending(24), schedule("karras", 4, *MODEL.sigma_range)
    found = ld3(on, [("ipndm", 2, grid)], rounds=(3, 5), batch=2, checks=1)
    assert found.tableau.evaluations == 4
    judges = _spending(24)
    judges.noise, judges.extra_args = judges.noise[12:], lambda samples: on.extra_args(12 + samples)
    assert _error(judges, found.tableau) < 0.98 * _error(judges, _start())
    assert found.tableau.sigma == pytest.approx(MODEL.sigma_max)
    assert found.backward == 8 * 12 * 4  # half of the samples train, in eight rounds
    looks = 1 + 8  # at the start, and after each round
    assert found.forward == 24 * TEACHER + 2 * found.backward + looks * 12 * 4


def test_ld3_moves_told_levels_by_half_a_gap_at_most() -> None:
    grid = Discretization(np.array([8.0, 4.0, 1.0, 0.3]), 0.1, flow=False)
    levels, told = grid.levels()
    assert levels.tolist() == pytest.approx([8.0, 4.0, 1.0, 0.3])
    assert torch.equal(levels, told)
    grid.offsets.data[:] = 9.0
    levels, told = (x.detach() for x in grid.levels())
    assert (told / levels).tolist() == pytest.approx([1.0, *[2**0.5] * 3])
    flow = Discretization(np.array([1.0, 0.8, 0.3]), 0.001, flow=True)
    assert flow.levels()[0].tolist() == pytest.approx([1.0, 0.8, 0.3])


@pytest.mark.parametrize("preconditioned", [False, True])
def test_all_numbers_lower_their_error(preconditioned: bool) -> None:
    on, start = _spending(16), _start()
    rate = 0.1 if preconditioned else 0.02
    found = bespoke(on, [start], steps=40, batch=8, rate=rate, preconditioned=preconditioned)
    assert found.tableau.evaluations == 4
    assert _error(on, found.tableau) < 0.5 * _error(on, start)
    assert found.backward == 40 * 8 * 4
    extra = (1 + AllNumbers(start, True, MODEL.sigma_range).size) * 8 * 4 if preconditioned else 0
    assert found.forward == 16 * TEACHER + found.backward + extra


def test_several_starts_and_no_guidance() -> None:
    on, starts = _spending(8, 1.0), [_start(), _start(4, "dpmpp_2m", None)]
    found = bespoke(on, starts, steps=10, first_steps=5, batch=4)
    assert not found.tableau.guided
    assert _error(on, found.tableau) < min(_error(on, start) for start in starts)


def test_the_preconditioner_makes_directions_alike() -> None:
    on, numbers = _spending(8), AllNumbers(_start(), True, MODEL.sigma_range)
    samples = torch.arange(8)
    ends = teacher_ends(on, 60)
    matrix = preconditioner(on, numbers, samples, ends)
    zero = torch.zeros(numbers.size, dtype=torch.float64)
    here = on.ends(numbers.table(zero), samples)
    error = float(mean_squares(here, ends).mean())
    for z in 0.1 * torch.eye(numbers.size, dtype=torch.float64):
        change = float(mean_squares(on.ends(numbers.table(numbers.inside(matrix @ z)), samples), here).mean())
        assert change <= 1.5 * 0.01 * error


def _parameters() -> Parameters:
    return Parameters("ipndm", 2, "noise", tuple(schedule("karras", 4, *MODEL.sigma_range).tolist()), np.full((4, 1), 0.0))


def _options(folder: Path, **more: Any) -> argparse.Namespace:
    shared = {"models": ["tiny"], "device": "cpu", "command": "c", "output": folder, "shortlist": None, "mode": "quick"}
    return argparse.Namespace(**{**shared, "methods": None, **more})


def test_studies_keep_what_they_measured_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = replace(MODEL, reference_steps=20)
    monkeypatch.setitem(budget.MODELS, "tiny", lambda device: model)
    plan = Plan((4,), (2.0,), (), 8, 8)

    def search(*arguments: Any) -> Any:
        return None

    def record(best: Any, reference: Tensor) -> dict[str, Any]:
        return {"name": "euler karras", "error": 1.0}

    monkeypatch.setattr(budget, "search", search)
    monkeypatch.setattr(budget, "stock_record", record)
    short = {
        "gits": replace(budget.METHODS["gits"], settings=({"samples": 4, "teacher_steps": 20},)),
        "bns": replace(budget.METHODS["bns"], settings=({"samples": 4, "steps": 2, "batch": 2},)),
    }
    monkeypatch.setattr(budget, "METHODS", short)

    def save(result: dict[str, Any], text: str) -> None:
        (tmp_path / "budget.json").write_text(json.dumps(result))
        (tmp_path / "budget.md").write_text(text)

    for methods in (["gits"], ["bns"], ["bns"]):
        budget.budget(_options(tmp_path, methods=methods), plan, save)
    result = json.loads((tmp_path / "budget.json").read_text())
    assert [row["method"] for row in result["rows"]] == ["gits", "bns"]
    assert all(row["evaluations"] == row["forward"] + 2 * row["backward"] for row in result["rows"])
    assert result["rows"][1]["ratio"] == pytest.approx(result["rows"][1]["error"], abs=1e-3)
    assert "GITS" in (tmp_path / "budget.md").read_text()
    assert (tmp_path / "budget.png").read_bytes().startswith(b"\x89PNG")


def test_the_limit_is_measured_once_a_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(limit.MODELS, "tiny", lambda device: replace(MODEL, reference_steps=20))
    monkeypatch.setattr(limit, "_STEPS", {"quick": (2, 3)})
    cells = [
        {
            **{"model": "tiny", "guidance": 2.0, "evaluations": 4, "stock": {"error": 0.3}},
            "distilled": {"balanced": {"parameters": described(_parameters())}},
        }
    ]
    (tmp_path / "quality.json").write_text(json.dumps({"cells": cells}))
    saved: list[str] = []

    def save(result: dict[str, Any], text: str) -> None:
        (tmp_path / "limit.json").write_text(json.dumps(result))
        saved.append(text)

    options = _options(tmp_path, shortlist=tmp_path / "quality.json")
    for _ in range(2):
        limit.limit(options, Plan((4,), (2.0,), (), 16, 8), save)
    assert len(saved) == 1
    (row,) = json.loads((tmp_path / "limit.json").read_text())["rows"]
    assert row["limit"] < row["ours"]
    assert f"{row['ours'] / row['limit']:.3f}" in saved[0]
