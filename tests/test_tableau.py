"""Tables: validation, the two forms, and grids."""

import numpy as np
import pytest
import torch

from dode import METHODS, Row, Tableau, build_tableau, get_method, sample, schedule, steps_within
from dode.coordinate import coordinate
from dode.demo.mixture import ring
from dode.errors import DodeError, GridError, MethodError, TableauError
from dode.tableau import check_sigmas

GRID = [10.0, 3.0, 1.0, 0.2, 0.0]
ALL = [(name, order) for name, method in METHODS.items() for order in method.convergence]


@pytest.mark.parametrize(
    ("sigmas", "says"),
    [
        ([1.0], "2 to 1001"),
        (np.ones((2, 2)), "flat list"),
        ([3.0, 1.0, 1.0], r"sigmas\[1\] = 1 is followed by 1"),
        ([1.0, 2.0], "strictly descending"),
        ([1.0, float("nan")], "finite"),
        ([float("inf"), 1.0], "finite"),
        ([1.0, -1.0], "negative"),
        (["a", 1], "list of numbers"),
        (list(range(1100, 0, -1)), "1000 steps"),
    ],
)
def test_unusable_grids_are_refused_with_the_reason(sigmas: list[float], says: str) -> None:
    with pytest.raises(GridError, match=says):
        check_sigmas(sigmas)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ((), "at least one row"),
        ((Row(1.0, ((0, 0.5),), evaluate=True),), "last row must commit"),
        ((Row(1.0, ((0, 0.4),), evaluate=False),), "not consistent"),
        ((Row(1.0, ((1, 0.5),), evaluate=False),), "evaluation 1"),
        ((Row(1.0, ((0, 0.25), (0, 0.25)), evaluate=False),), "out of order"),
        ((Row(float("nan"), ((0, 0.5),), evaluate=False),), "sigma nan"),
        ((Row(0.0, ((0, 1.0),)), Row(0.0, ((0, 1.0),), evaluate=False)), "0 where nothing is evaluated"),
        ((Row(0.0, ((0, 1.0),), evaluate=False), Row(0.0, ((0, 1.0),), evaluate=False)), "starts from sigma 0"),
        ((Row(1.0, ((0, float("nan")),), evaluate=False),), "not consistent"),
    ],
)
def test_inconsistent_tables_cannot_be_built(rows: tuple[Row, ...], says: str) -> None:
    with pytest.raises(TableauError, match=says):
        Tableau(2.0, rows)


@pytest.mark.parametrize(("name", "order"), ALL)
@pytest.mark.parametrize("ends_at_zero", [True, False])
def test_both_forms_of_a_table_give_the_same_samples(name: str, order: int, ends_at_zero: bool) -> None:
    table = build_tableau(name, GRID if ends_at_zero else GRID[:-1], order)
    x = torch.randn(3, 4, dtype=torch.float64) * 10
    if table.consistent:
        results = [sample(ring(), x, table.in_terms_of(form)) for form in ("data", "noise")]
        assert (results[0] - results[1]).abs().max() < 1e-12
    else:  # a stock sampler with a slip: it has but the one form
        with pytest.raises(TableauError):
            table.in_terms_of("data")
    assert table.in_terms_of(table.prediction) is table


@pytest.mark.parametrize(("name", "order"), ALL)
def test_a_constant_model_is_integrated_exactly(name: str, order: int) -> None:
    x = torch.randn(2, 3, dtype=torch.float64) * 10
    result = sample(lambda y, sigma: torch.full_like(y, 0.3), x, build_tableau(name, GRID[:-1], order))
    assert (result - (0.3 + (x - 0.3) * GRID[-2] / GRID[0])).abs().max() < 1e-12


@pytest.mark.parametrize(("name", "order"), ALL)
def test_steps_within_is_the_most_that_fit(name: str, order: int) -> None:
    for evaluations in range(1, 12):
        steps = steps_within(name, evaluations, order)
        for n, fits in ((steps, True), (steps + 1, False)):
            if n:
                assert (build_tableau(name, schedule("karras", n, 0.1, 10), order).evaluations <= evaluations) == fits


def test_names_that_do_not_exist_are_refused_with_those_that_do() -> None:
    for refused in (
        lambda: get_method("euler_b"),
        lambda: build_tableau("ipndm", GRID, order=9),
        lambda: build_tableau("euler", GRID, coordinate="log"),
        lambda: schedule("karass", 4, 0.1, 1),
        lambda: coordinate("lambda", np.ones(1)),
    ):
        with pytest.raises(MethodError, match="Choose one of"):
            refused()
    with pytest.raises(GridError, match="sigma_min < sigma_max"):
        schedule("karras", 4, 1.0, 0.1)
    with pytest.raises(GridError, match="flow-matching"):
        coordinate("flow", np.array([2.0]))
    assert issubclass(MethodError, DodeError)


def test_aliases_name_the_same_method() -> None:
    assert get_method("ddim") is get_method("euler")
    assert get_method("edm") is get_method("heun")
