"""On every device of the machine: tensors stay there, and the loop never waits for it. On a CPU alone that is the CPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from dode import build_tableau, distill, distill_students, sample
from dode.demo.mixture import ring
from dode.sampling import Guided
from dode.stepper import Stepper

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
GRID = [10.0, 3.0, 1.0, 0.3, 0.0]


def noise(count: int = 16) -> Tensor:
    return torch.randn(count, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("device", [*DEVICES, "meta"])
@pytest.mark.parametrize("method", ["euler", "ipndm", "dpmpp_2m", "heun", "uni_pc_bh2"])
def test_a_table_runs_where_the_tensors_are(device: str, method: str) -> None:
    asked: list[tuple[str, str]] = []

    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        asked.append((x.device.type, sigma.device.type))
        return 0.5 * x

    found = sample(denoiser, 10 * noise().to(device), build_tableau(method, GRID))
    assert found.device.type == device
    assert set(asked) == {(device, device)}


@contextmanager
def no_waiting(device: str) -> Iterator[None]:
    """An error where something waits for a CUDA device."""
    mode = torch.cuda.get_sync_debug_mode() if device == "cuda" else None
    try:
        if mode is not None:
            torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        if mode is not None:
            torch.cuda.set_sync_debug_mode(mode)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("device", DEVICES)
def test_the_loop_never_waits_for_the_device(device: str) -> None:
    tableau, x = build_tableau("dpmpp_2m", GRID), 10 * noise().to(device)
    with no_waiting(device):
        stepper = Stepper(tableau, x)
        while not stepper.done:
            stepper.take(0.5 * stepper.x)
    torch.testing.assert_close(stepper.x, sample(lambda x, sigma: 0.5 * x, x, tableau))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kept", DEVICES)
def test_a_fit_asks_the_model_on_its_device_and_finds_the_same(device: str, kept: str) -> None:
    model, asked = ring(), set[str]()

    def denoiser(x: Tensor, sigma: Tensor) -> Guided:
        asked.add(x.device.type)
        denoised = model(x.cpu(), sigma.cpu()).to(x.device)
        return Guided(denoised, 0.1 * denoised)

    def fits(device: str, kept: str) -> list[Tensor]:
        closed = distill(denoiser, 10 * noise().to(kept), GRID, device=device)
        settings = {"evaluations": (4,), "sigma_range": (0.02, 10.0), "device": device}
        (free,) = distill_students(denoiser, noise().to(kept), **settings)
        return [torch.tensor(found.parameters.values) for found in (closed, free)]

    found = fits(device, kept)
    assert asked == {device}
    for mine, its in zip(found, fits("cpu", "cpu"), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-3, atol=1e-4)
