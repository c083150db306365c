"""The loop: k-diffusion's conventions, precision, memory, and distilled parameters on it."""

import itertools
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dode import METHODS, Parameters, build_tableau, make_sampler, sample, schedule
from dode.correction import available_taps, correct
from dode.demo.mixture import ring
from dode.errors import GridError, ModelError, ParameterError
from dode.tableau import PREDICTIONS

SIGMAS = schedule("karras", 5, 0.1, 10.0)
ALL = [(name, order) for name, method in METHODS.items() for order in method.convergence]
# A stock sampler that is not consistent has no "data" form.
FORMS = [
    (*each, form)
    for each in ALL
    for form in PREDICTIONS
    if form == "noise" or build_tableau(each[0], SIGMAS, each[1]).consistent
]


def some_parameters(method: str = "euler", directions: Any = "data", order: int | None = None, taps: int = 1) -> Parameters:
    base = build_tableau(method, SIGMAS, order)
    values = 0.3 * np.random.default_rng(0).standard_normal((len(base.rows), taps))
    values[np.arange(taps)[None, :] >= available_taps(base)[:, None]] = 0
    return Parameters(method, order or METHODS[method].default_order, directions, tuple(SIGMAS), values)


def level(sigma: float, count: int = 3) -> Tensor:
    return torch.full((count,), float(sigma), dtype=torch.float64)


def start(count: int = 3) -> Tensor:
    return torch.randn(count, 4, dtype=torch.float64) * SIGMAS[0]


def test_euler_against_the_textbook_loop() -> None:
    x = y = start()
    for a, b in itertools.pairwise(SIGMAS):
        y = y + (b - a) * (y - ring()(y, level(a))) / a
    assert (sample(ring(), x, build_tableau("euler", SIGMAS)) - y).abs().max() < 1e-12


@pytest.mark.parametrize("taps", [1, 3])
@pytest.mark.parametrize(("name", "order", "directions"), FORMS)
def test_a_corrected_table_is_the_corrected_method(name: str, order: int, taps: int, directions: Any) -> None:
    """Against the definition: run the base solver's rows on the actual outputs and add λ·h·(e_i - e_{i-1}) by hand."""
    parameters = some_parameters(name, directions, order, taps)
    base, x = parameters.base(), start()
    points, denoised = [x], [ring()(x, level(base.sigma))]
    sigmas, anchor, sigma = [base.sigma], x, base.sigma
    for row, values in zip(base.rows, parameters.values, strict=True):
        noise = [(p - d) / s for p, d, s in zip(points, denoised, sigmas, strict=True)]
        own = denoised if base.prediction == "data" else noise
        y = anchor * (row.sigma / sigma if base.prediction == "data" else 1)
        y = y + sum((w * own[j] for j, w in row.weights), torch.zeros_like(y))
        outputs, h = (denoised, 1 - row.sigma / sigma) if directions == "data" else (noise, row.sigma - sigma)
        for k, value in enumerate(values):
            if value:
                y = y + value * h * (outputs[-1 - k] - outputs[-2 - k])
        if row.evaluate:
            points.append(y)
            sigmas.append(row.sigma)
            denoised.append(ring()(y, level(row.sigma)))
        if row.commit:
            anchor, sigma = y, row.sigma
    assert (sample(ring(), x, parameters.tableau()) - anchor).abs().max() < 1e-10


@pytest.mark.parametrize(("name", "order", "directions"), FORMS)
def test_strength_zero_is_the_base_solver(name: str, order: int, directions: Any) -> None:
    parameters = some_parameters(name, directions, order)
    assert parameters.tableau(strength=0) == parameters.base()
    tiny = sample(ring(), x := start(), parameters.tableau(strength=1e-13))
    assert (tiny - sample(ring(), x, parameters.base())).abs().max() < 1e-10


def test_a_correction_costs_no_evaluation() -> None:
    for name, order, directions in FORMS:
        parameters = some_parameters(name, directions, order)
        assert parameters.tableau().evaluations == parameters.base().evaluations


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_and_inputs_are_kept(dtype: torch.dtype) -> None:
    x = start().to(dtype)
    before, seen = x.clone(), []

    def denoise(y: Tensor, sigma: Tensor) -> Tensor:
        seen.append((y.dtype, sigma.dtype, tuple(sigma.shape)))
        return y * 0.1

    out = sample(denoise, x, some_parameters("heun", "noise").tableau())
    assert out.dtype == dtype
    assert torch.equal(x, before)
    assert set(seen) == {(dtype, dtype, (3,))}


def test_callback_once_a_step_with_k_diffusions_fields() -> None:
    calls: list[dict[str, Any]] = []
    for name in ("euler", "heun"):
        calls.clear()
        sample(ring(), start(), build_tableau(name, SIGMAS), callback=calls.append)
        assert [c["i"] for c in calls] == list(range(5))
        assert [float(c["sigma"]) for c in calls] == pytest.approx(SIGMAS[:-1].tolist())
        for c in calls:
            assert set(c) == {"x", "i", "sigma", "sigma_hat", "denoised"}
            expected = ring()(c["x"], c["sigma"] * torch.ones(3, dtype=torch.float64))
            assert torch.equal(c["denoised"], expected)


def test_sampler_function_has_k_diffusions_signature() -> None:
    x, seen = start(), []

    def denoise(y: Tensor, sigma: Tensor, tilt: float = 0.0) -> Tensor:
        seen.append(tilt)
        return ring()(y, sigma, tilt)

    sampler = make_sampler(some_parameters())
    sigmas = torch.tensor(SIGMAS, dtype=torch.float32)
    out = sampler(denoise, x, sigmas, extra_args={"tilt": 0.5}, callback=None, disable=True)
    assert set(seen) == {0.5}
    assert sampler.__name__ == "sample_dode_euler"
    table = some_parameters().tableau(sigmas.tolist())
    assert torch.equal(out, sample(ring(), x, table, extra_args={"tilt": 0.5}))
    assert torch.equal(make_sampler("heun")(ring(), x, sigmas), sample(ring(), x, build_tableau("heun", sigmas.tolist())))
    assert make_sampler("euler")(ring(), x, sigmas[:1]) is x


def test_a_progress_bar_is_drawn_only_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    sample(ring(), start(), build_tableau("euler", SIGMAS), disable=True)
    assert not capsys.readouterr().err
    sample(ring(), start(), build_tableau("euler", SIGMAS), disable=False)
    assert "5/5" in capsys.readouterr().err


def test_parameters_follow_a_part_of_their_grid() -> None:
    parameters = some_parameters()
    whole, late = parameters.tableau(), parameters.tableau(SIGMAS[2:])
    assert parameters.tableau(SIGMAS) == whole
    assert late.rows[0] == build_tableau("euler", SIGMAS[2:]).rows[0]  # restarts without history
    assert [w for _, w in late.rows[1].weights] == pytest.approx([w for _, w in whole.rows[3].weights])
    early = parameters.tableau(SIGMAS[:3])
    assert [r.weights for r in early.rows] == [r.weights for r in whole.rows[:2]]
    for wrong in (SIGMAS * 1.01, SIGMAS[[0, 2, 3]], [*SIGMAS[:-1], 0.01]):
        with pytest.raises(ParameterError, match="5-step grid"):
            parameters.tableau(wrong)
    with pytest.raises(ParameterError, match="strength"):
        parameters.tableau(strength=float("nan"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"values": np.zeros((4, 1))}, r"shape \(5, 1 to 16\)"),
        ({"values": np.zeros((5, 17))}, "shape"),
        ({"values": np.full((5, 1), np.nan)}, "finite, row 0"),
        ({"values": np.ones((5, 1))}, "Row 0 has a parameter"),
        ({"directions": "velocity"}, "directions"),
        ({"sigmas": (1.0, 2.0)}, "descending"),
    ],
)
def test_parameters_that_do_not_fit_together_are_refused(changes: dict[str, Any], says: str) -> None:
    fields: dict[str, Any] = {
        "method": "euler",
        "order": 1,
        "directions": "data",
        "sigmas": tuple(SIGMAS),
        "values": np.zeros((5, 1)),
    }
    with pytest.raises((ParameterError, GridError), match=says):
        Parameters(**{**fields, **changes})


def test_a_denoiser_that_returns_something_else_is_named() -> None:
    wrong_ones: list[Any] = [lambda y, s: y[:1], lambda y, s: None]
    for wrong in wrong_ones:
        with pytest.raises(ModelError, match="shaped like its input"):
            sample(wrong, start(), build_tableau("euler", SIGMAS))


def test_memory_is_the_history_the_method_needs() -> None:
    """While the model runs, no more outputs are alive than later rows still refer to."""
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def denoise(y: Tensor, sigma: Tensor) -> Tensor:
        nonlocal most
        most = max(most, sum(r() is not None for r in alive))
        out = y * 0.5
        alive.append(weakref.ref(out))
        return out

    sigmas = schedule("karras", 20, 0.1, 10.0)
    taps = np.zeros((20, 3))
    taps[3:] = 0.01
    three_taps = Parameters("euler", 1, "data", tuple(sigmas), taps).tableau()
    tables = (build_tableau("euler", sigmas), 0), (build_tableau("dpmpp_2m", sigmas), 1), (three_taps, 3)
    for table, history in tables:
        alive.clear()
        most = 0
        sample(denoise, start(), table)
        assert most == history


def test_correct_leaves_the_base_alone() -> None:
    base = build_tableau("dpmpp_2m", SIGMAS)
    assert correct(base, "noise", np.zeros((5, 2))) is base
