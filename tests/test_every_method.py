"""What every registered solver can do, and what the names of stock samplers lead to."""

import importlib
import math
import re
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dode import METHODS, build_tableau, sample
from dode.correction import Parameters
from dode.demo.mixture import ring
from dode.errors import MethodError, ParameterError, TableauError
from dode.files.parameter_file import Entry, load_parameters, save_parameters
from dode.fit.distill import distill
from dode.methods import get_method
from dode.methods import registry as registry_module
from dode.teacher import Teacher
from tests.comfyui import allow_cpu_only_torch, import_comfy
from tests.stock import StockModel, run_stock

GRID = [12.0, 6.0, 2.5, 1.0, 0.3, 0.05, 0.0]
FLOW_GRID = [1.0, 0.9, 0.75, 0.55, 0.35, 0.15, 0.0]


@pytest.mark.parametrize("flow", [False, True], ids=["variance exploding", "flow"])
@pytest.mark.parametrize("name", METHODS)
def test_distill_save_load_and_sample(name: str, flow: bool, tmp_path: Path) -> None:
    coordinate, grid = ("flow", FLOW_GRID) if flow else ("log_sigma", GRID)
    x = torch.randn(16, 4, dtype=torch.float64) * grid[0]
    teacher = Teacher(METHODS[name].teacher, substeps=3, coordinate=coordinate)
    found = distill(ring(flow=flow), x, grid, method=name, coordinate=coordinate, teacher=teacher)
    assert found.report.error_distilled <= found.report.error_base
    # The guard may have dropped everything; what is saved and used is the plain fit.
    found = distill(ring(flow=flow), x, grid, method=name, coordinate=coordinate, teacher=teacher, guard=False)
    path = save_parameters(tmp_path / "a.safetensors", [Entry(found.parameters, report=found.report)])
    loaded = load_parameters(path).entries[0].parameters
    wanted = sample(ring(flow=flow), x, found.parameters.tableau())
    assert torch.equal(sample(ring(flow=flow), x, loaded.tableau()), wanted)
    assert not torch.equal(wanted, sample(ring(flow=flow), x, loaded.base()))


@pytest.mark.parametrize("name", METHODS)
def test_a_long_grid(name: str) -> None:
    grid = np.append(np.geomspace(80, 0.002, 1000), 0.0)
    for order in METHODS[name].convergence:
        table = build_tableau(name, grid, order)
        assert table.evaluations >= 1000
        assert table.rows[-1].sigma <= grid[-2]
        assert all(np.isfinite([weight for _, weight in row.weights]).all() for row in table.rows)


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("dpm_fast", "dpm_2_singlestep", "dpm_3_singlestep")])
@pytest.mark.parametrize(("first", "last"), [(0, 4), (2, 6), (1, 5)])
def test_split_grid_uses_the_rows_of_its_steps(name: str, first: int, last: int) -> None:
    """The correction of a part is that of the whole, step by step; here λ numbers the rows."""
    # ComfyUI's ipndm_v of order 4 has no other form.
    order = max(order for order in METHODS[name].convergence if build_tableau(name, GRID, order).consistent)
    whole = build_tableau(name, GRID, order)
    values = np.where(np.arange(len(whole.rows)) > 0, np.arange(len(whole.rows)) + 1.0, 0)[:, None]
    parameters = Parameters(name, order, "noise", tuple(GRID), values)
    part = parameters.tableau(GRID[first : last + 1]).in_terms_of("noise")
    plain = build_tableau(name, GRID[first : last + 1], order).in_terms_of("noise")
    if name in ("heunpp2", "uni_pc", "uni_pc_bh2", "sa_solver", "sa_solver_pece"):
        # Their last steps differ from the same steps inside the grid; the parts they share must still find their λ.
        assert part.sigmas == plain.sigmas
    assert [row.sigma for row in part.rows] == [row.sigma for row in plain.rows]
    assert part.rows[0] == plain.rows[0]
    assert all(a.weights != b.weights for a, b in zip(part.rows[1:], plain.rows[1:], strict=True))


@pytest.mark.parametrize(("name", "step"), [("dpm_2_singlestep", 2), ("dpm_3_singlestep", 3)])
def test_a_part_of_steps_over_several_intervals_begins_where_one_does(name: str, step: int) -> None:
    rows = len(build_tableau(name, GRID).rows)
    values = np.where(np.arange(rows) > 0, np.arange(rows) + 1.0, 0)[:, None]
    told = tuple(1.01 * sigma for sigma in GRID[:-1])
    parameters = Parameters(name, METHODS[name].default_order, "noise", tuple(GRID), values, model_sigmas=told)
    part, whole = parameters.tableau(GRID[step:]), parameters.tableau()
    assert part.model_sigmas == told[step:]
    ours, theirs = part.rows[1:], whole.rows[step + 1 :]
    assert len(ours) == len(theirs) > 1
    for row, same in zip(ours, theirs, strict=True):
        assert row == replace(same, weights=tuple((index - step, weight) for index, weight in same.weights))
    with pytest.raises(ParameterError, match="other stages"):
        parameters.tableau(GRID[1:])


def test_dpm_fast_runs_on_its_whole_grid_only() -> None:
    rows = len(build_tableau("dpm_fast", GRID).rows)
    parameters = Parameters("dpm_fast", 3, "noise", tuple(GRID), np.zeros((rows, 1)))
    with pytest.raises(ParameterError, match="whole grid"):
        parameters.tableau(GRID[2:])


def test_every_sampler_of_comfyui_is_there_or_refused_with_a_reason() -> None:
    import_comfy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = importlib.import_module("comfy.samplers").SAMPLER_NAMES
    _check_names(names, known=21)


def test_every_sampler_of_k_diffusion_is_there_or_refused_with_a_reason() -> None:
    allow_cpu_only_torch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = importlib.import_module("k_diffusion.sampling")
    _check_names([name.removeprefix("sample_") for name in dir(module) if name.startswith("sample_")], known=6)


def _check_names(names: list[str], known: int) -> None:
    found = 0
    for name in names:
        noisy = re.search("ancestral|sde$|sde_|ddpm|lcm", name) and name != "er_sde"
        if noisy or "cfg_pp" in name or "adaptive" in name:
            with pytest.raises(MethodError, match=f"{name}' cannot be distilled: (it|CFG)"):
                get_method(name)
        else:
            assert get_method(name)
            found += 1
    assert found >= known


def test_a_refusal_names_the_deterministic_limit() -> None:
    for name in ("dpmpp_2m_sde_gpu", "dpmpp_sde", "euler_ancestral", "dpmpp_2s_ancestral", "res_multistep_ancestral"):
        with pytest.raises(MethodError) as raised:
            get_method(name)
        assert get_method(str(raised.value).split("'")[3])


def test_a_refused_cfg_pp_sampler_names_the_plain_one() -> None:
    for name, plain in (("euler_cfg_pp", "euler"), ("dpmpp_2m_cfg_pp", "dpmpp_2m"), ("euler_ancestral_cfg_pp", "euler")):
        with pytest.raises(MethodError, match=f"depends on the guidance scale.* Use '{plain}'"):
            get_method(name)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("D-DDIM", "euler"),
        ("DDIM", "euler"),
        ("d_ipndm", "ipndm"),
        ("PNDM", "ipndm"),
        ("D-PLMS", "ipndm"),
        ("D-DPM-Solver-2", "dpm_2_singlestep"),
        ("dpm_solver_2", "dpm_2"),
        ("DPM-Solver-3", "dpm_3"),
        ("D-DEIS", "deis"),
        ("D-EDM", "heun"),
        ("sample_dpmpp_2m", "dpmpp_2m"),
        ("DPMPP_2M", "dpmpp_2m"),
    ],
)
def test_the_names_that_people_use_are_understood(said: str, meant: str) -> None:
    assert get_method(said).name == meant


def test_every_name_is_found_in_any_dress() -> None:
    for method in METHODS.values():
        for name in (method.name, *method.aliases):
            for dressed in (name.upper(), f"sample_{name}", name.replace("_", "-")):
                assert get_method(dressed).name == method.name
            own = [other for other in METHODS.values() if f"d_{name}" in other.aliases]  # where the D- version is of another
            assert get_method(f"D-{name}") in (own or [method])


def test_corrected_ipndm_v_has_the_weights_of_adams_bashforth() -> None:
    uniform = np.linspace(9, 1, 9)
    corrected, stock = (build_tableau(name, uniform).rows[5].weights for name in ("ipndm_v_corrected", "ipndm_v"))
    wanted = [9 / 24, -37 / 24, 59 / 24, -55 / 24]
    np.testing.assert_allclose([w for _, w in corrected], wanted, rtol=1e-12)
    assert np.abs(np.array([w for _, w in stock]) - wanted).max() > 0.05


def test_a_solver_that_is_not_consistent_says_so() -> None:
    table = build_tableau("ipndm_v", GRID)
    assert not table.consistent
    with pytest.raises(TableauError, match="directions='noise'"):
        table.in_terms_of("data")


@pytest.mark.parametrize("order", [2, 3, 4])
def test_stock_deis_is_off_by_its_sums_alone(order: int) -> None:
    """ComfyUI's DEIS as it ships: its sum over 10 000 points leaves it within 2e-4 of the exact integrals."""
    x = torch.randn(4, 4, dtype=torch.float64) * GRID[0]
    wanted = run_stock(METHODS["deis"].stock[0], order, StockModel(ring(), "log_sigma"), x, np.array(GRID))
    off = float((sample(ring(), x, build_tableau("deis", GRID, order)) - wanted).abs().max())
    assert 1e-9 < off < 2e-4


@pytest.mark.parametrize("name", ["uni_pc", "uni_pc_bh2"])
def test_stock_uni_pc_does_nothing_in_one_step(name: str) -> None:
    """The deviation that the entry declares: stock returns its input, scaled; the table takes an Euler step."""
    x = torch.randn(4, 4, dtype=torch.float64) * 12
    returned = run_stock(METHODS[name].stock[0], 3, StockModel(ring(), "log_sigma"), x, np.array([12.0, 0.0]))
    np.testing.assert_allclose(returned / x, np.sqrt((1 + 0.001**2) / (1 + 12.0**2)), rtol=1e-9)
    assert build_tableau(name, [12.0, 0.0]) == build_tableau("euler", [12.0, 0.001])


def test_flow_model_with_a_shift_gives_its_own_first_sigma() -> None:
    """Stock moves σ = 1 to the model's σ at a percent of 1e-4; a grid that starts there gives the same result."""
    import_comfy()
    module = importlib.import_module("comfy.model_sampling")
    shifted = type("ModelSampling", (module.ModelSamplingDiscreteFlow, module.CONST), {})()
    shifted.set_parameters(shift=3.0)
    model = StockModel(ring(flow=True), "flow")
    model.inner_model.model_patcher.get_model_object = lambda name: shifted
    x = torch.randn(4, 4, dtype=torch.float64)
    wanted = run_stock(METHODS["dpmpp_3m"].stock[0], 3, model, x, np.array(FLOW_GRID))
    grid = [float(shifted.percent_to_sigma(1e-4)), *FLOW_GRID[1:]]
    got = sample(ring(flow=True), x, build_tableau("dpmpp_3m", grid, None, "flow"))
    assert float((got - wanted).abs().max()) < 1e-9
    assert float((sample(ring(flow=True), x, build_tableau("dpmpp_3m", FLOW_GRID, None, "flow")) - wanted).abs().max()) > 1e-9


def test_the_worked_example_of_contributing_md(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = (Path(__file__).resolve().parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert code
    monkeypatch.setattr(registry_module, "METHODS", dict(METHODS))
    monkeypatch.setattr(registry_module, "_NAMES", dict(registry_module._NAMES))
    (tmp_path / "ralston_example.py").write_text(code[1], encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("ralston_example")
    x = torch.randn(8, 4, dtype=torch.float64) * 12
    smooth = [np.geomspace(12, 0.5, n + 1) for n in (200, 400, 800)]
    a, b, c = (sample(ring(), x, registry_module.build_tableau("ralston", grid)) for grid in smooth)
    assert math.log2(float((a - b).norm() / (b - c).norm())) == pytest.approx(2, abs=0.2)
