"""Fits on several processes: the numbers that one process finds, each with its part of the work, and what if one dies."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dode

ROOT = Path(__file__).resolve().parent.parent
# A fit of both kinds on the exact model. Process 1 may die, or its model may break, after so many calls.
_FIT = """
import json, os, sys
import torch, dode
from dode.demo.mixture import ring
from dode.fit import ranks
death, break_ = int(sys.argv[2]), int(sys.argv[3])
with ranks.from_environment() as rank:
    model, calls, evaluations = ring(), 0, 0
    def denoiser(x, sigma):
        global calls, evaluations
        calls, evaluations = calls + 1, evaluations + len(x)
        if rank == 1 and calls == death:
            os._exit(7)
        if rank == 1 and calls == break_:
            raise MemoryError("no more room")
        return model(x, sigma)
    noise = torch.randn(24, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    try:
        found = dode.distill_students(denoiser, noise, evaluations=[4], sigma_range=(0.02, 20.0), micro_batch=5)
        first, evaluations = evaluations, 0
        found.append(dode.distill(denoiser, 20 * noise, dode.schedule("karras", 4, 0.02, 20.0), micro_batch=5))
    except dode.DodeError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    numbers = [[*f.parameters.sigmas, *f.parameters.values.ravel().tolist(), f.report.error_distilled] for f in found]
    counts = [sum(f.report.model_evaluations.values()) for f in found]
    said = {"numbers": numbers, "counts": counts, "mine": [first, evaluations]}
    with open(f"{sys.argv[1]}/{rank}.json", "w") as file:
        json.dump(said, file)
"""


def processes(count: int, folder: Path, death: int = -1, break_: int = -1) -> list[subprocess.CompletedProcess[str]]:
    """Run the fit as so many processes, without a launcher that would end the others when one dies."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found: list[subprocess.Popen[str]] = []
    for rank in range(count):
        place = {"RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        command = [sys.executable, "-c", _FIT, str(folder), str(death), str(break_)]
        environment = {**os.environ, **place, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        found.append(
            subprocess.Popen(command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        )
    done = [process.communicate(timeout=300) for process in found]
    return [
        subprocess.CompletedProcess([], process.returncode, out, error)
        for process, (out, error) in zip(found, done, strict=True)
    ]


def said(count: int, folder: Path) -> list[dict[str, Any]]:
    for done in processes(count, folder):
        assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(count)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return said(1, tmp_path_factory.mktemp("alone"))[0]


@pytest.mark.parametrize("count", [2, 4])
def test_all_find_what_one_finds_and_share_the_work(count: int, alone: dict[str, Any], tmp_path: Path) -> None:
    found = said(count, tmp_path)
    for each in found:
        assert each["numbers"] == found[0]["numbers"]
        assert each["counts"] == alone["counts"]
        for mine, its in zip(each["numbers"], alone["numbers"], strict=True):
            np.testing.assert_allclose(mine, its, rtol=1e-6, atol=1e-9)
    for kind in range(2):
        parts = [each["mine"][kind] for each in found]
        assert sum(parts) == alone["mine"][kind]
        assert max(parts) < 1.2 * alone["mine"][kind] / count


def test_a_process_that_dies_ends_all(tmp_path: Path) -> None:
    first, second = processes(2, tmp_path, death=30)
    assert second.returncode == 7
    assert first.returncode == 1
    assert "FitError: Another process of this fit has ended" in first.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_one_process_is_raised_in_all(tmp_path: Path) -> None:
    first, second = processes(2, tmp_path, break_=30)
    assert "FitError: Process 1: MemoryError: no more room" in first.stderr
    assert "MemoryError: no more room" in second.stderr
    assert list(tmp_path.iterdir()) == []


def torchrun(count: int, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    launch = [] if count == 1 else ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *launch, "-m", "dode", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("mode", ["balanced", "paper"])
def test_the_command_line_under_torchrun(mode: str, tmp_path: Path) -> None:
    options = ["--evaluations", "3", "--samples", "12", "--guidance", "3", "--mode", mode]
    files = []
    for count in (1, 2):
        done = torchrun(count, "distill", f"{count}.safetensors", *options, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("Saved ") == 1
        files.append(dode.load_parameters(tmp_path / f"{count}.safetensors").entries[0])
    one, two = files
    assert one.report is not None
    assert two.report is not None
    assert two.report.model_evaluations == one.report.model_evaluations
    np.testing.assert_allclose(two.parameters.values, one.parameters.values, rtol=0.01, atol=1e-3)
    assert two.report.error_distilled == pytest.approx(one.report.error_distilled, rel=0.01)
    assert len(list(tmp_path.iterdir())) == 2


def test_under_torchrun_too_a_process_that_dies_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "dying.py").write_text(
        "import os\nfrom dode.demo.model import embedded_model\ncalls = 0\n"
        "def make():\n    model = embedded_model()\n"
        "    def denoiser(x, sigma):\n        global calls\n        calls += 1\n"
        "        if calls == 20 and os.environ['RANK'] == '1':\n            os._exit(7)\n        return model(x, sigma)\n"
        "    denoiser.shape, denoiser.sigma_min, denoiser.sigma_max = (3, 16, 16), 0.02, 80.0\n    return denoiser\n"
    )
    done = torchrun(
        2, "distill", "mine.safetensors", "--model", "dying:make", "--evaluations", "3", "--samples", "8", cwd=tmp_path
    )
    assert done.returncode != 0
    assert "Saved" not in done.stdout
    assert not list(tmp_path.glob("*.safetensors*"))
