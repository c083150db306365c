"""Every solver against the stock sampler whose name it bears: the same weights, points and results."""

import importlib
from collections.abc import Iterator, Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from dode.demo.mixture import ring
from dode.errors import GridError
from dode.methods import METHODS, Stock, build_tableau
from dode.sampling import sample
from dode.tableau import Array, Tableau
from tests.comfyui import import_comfy
from tests.stock import OneHot, StockModel, grids, run_stock, works

CASES = [
    pytest.param(name, order, stock, coordinate, id=f"{name}-{order}-{stock.function.split(':')[0]}-{coordinate}")
    for name, method in METHODS.items()
    for stock in method.stock
    for order in (stock.orders or method.convergence)
    for coordinate in stock.coordinates
]
STEPS = (*range(1, 9), 13, 20)  # a history is at most four outputs long: each number up to twice that, and two more
MODEL_STEPS = (1, 2, 3, 5, 8, 13, 20)


@pytest.fixture
def exact_integrals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stock DEIS sums over N points with an error in powers of 1/N: take it to the limit N → ∞."""
    import_comfy()
    deis = importlib.import_module("comfy.k_diffusion.deis")
    plain = deis.get_deis_coeff_list

    def limit(t_steps: Tensor, max_order: int, deis_mode: str) -> list[list[Tensor]]:
        if deis_mode != "tab":
            return plain(t_steps, max_order, deis_mode=deis_mode)
        levels = [plain(t_steps, max_order, N=1000 * 2**k) for k in range(5)]
        rows = [[torch.stack(row) if row else torch.zeros(0) for row in level] for level in levels]
        for power in range(1, len(levels)):
            rows = [[(2**power * b - a) / (2**power - 1) for a, b in zip(*pair, strict=True)] for pair in pairwise(rows)]
        return [list(row) for row in rows[0]]

    monkeypatch.setattr(deis, "get_deis_coeff_list", limit)


def _check(got: Tensor, wanted: Tensor, bound: float, what: str) -> None:
    # The data have size 1; a mean of them that is zero but for rounding has no relative error.
    error = float((got - wanted).abs().max() / max(float(wanted.abs().max()), 0.1))
    assert error <= bound, f"{what}: off by {error:.3g}"


def _each_grid(
    name: str, order: int, stock: Stock, coordinate: str, steps: Sequence[int]
) -> Iterator[tuple[Tableau, Array, str]]:
    """Tables and grids that both can run."""
    for n in steps:
        for shape, grid in grids(coordinate, n).items():
            for sigmas in (grid, grid[:-1]) if n > 1 else (grid,):
                if not works(stock, order, sigmas):
                    continue
                try:
                    table = build_tableau(name, sigmas, order, coordinate)
                except GridError:
                    assert name in ("dpm_fast", "uni_pc", "uni_pc_bh2"), f"{name} refuses {sigmas}"
                    continue
                yield table, sigmas, f"{shape}, {len(sigmas) - 1} steps to {sigmas[-1]:.3g}"


@pytest.mark.parametrize(("name", "order", "stock", "coordinate"), CASES)
def test_weights(name: str, order: int, stock: Stock, coordinate: str, exact_integrals) -> None:
    seen = 0
    for table, sigmas, what in _each_grid(name, order, stock, coordinate, STEPS):
        outputs = table.evaluations
        ours, theirs = StockModel(OneHot(outputs), coordinate), StockModel(OneHot(outputs), coordinate)
        start = OneHot(outputs).start()
        got = sample(ours, start, table)
        wanted = run_stock(stock, order, theirs, start, sigmas)
        assert len(ours.calls) == len(theirs.calls), what
        for number, ((sigma, x), (sigma_wanted, x_wanted)) in enumerate(zip(ours.calls, theirs.calls, strict=True)):
            assert sigma == pytest.approx(sigma_wanted, rel=1e-12), what
            _check(x, x_wanted, stock.bound, f"{what}, evaluation {number}")
        _check(got, wanted, stock.bound, what)
        seen += 1
    assert seen >= 4


@pytest.mark.parametrize(("name", "order", "stock", "coordinate"), CASES)
def test_result_on_the_exact_model(name: str, order: int, stock: Stock, coordinate: str, exact_integrals) -> None:
    flow = coordinate == "flow"
    model = ring(flow=flow)
    noise = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    seen = 0
    for table, sigmas, what in _each_grid(name, order, stock, coordinate, MODEL_STEPS):
        x = noise * float(sigmas[0])
        wanted = run_stock(stock, order, StockModel(model, coordinate), x, sigmas)
        _check(sample(model, x, table), wanted, stock.bound, what)
        seen += 1
    assert seen >= 2
