"""What each process of a fit on several has to do: evaluations of the model, and whether they find the same.

    python -m benchmarks.ranks > benchmarks/results/ranks.md

Fits four, six and eight steps on the exact model, which costs nothing, once for each number of processes, as ``torchrun``
starts them. Evaluations are counted where they are made, in each process.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

import dode
from dode.demo.mixture import ring
from dode.fit import ranks

EVALUATIONS, SAMPLES, MICRO_BATCH, RANGE = (4, 6, 8), 48, 4, (0.02, 20.0)


def worker(folder: Path) -> None:
    """Fit as one of the processes, and write what this one did."""
    with ranks.from_environment() as rank:
        model, made = ring(), [0]
        noise = torch.randn(SAMPLES, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

        def counted(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            made[0] += len(x)
            return model(x, sigma)

        found = dode.distill_students(counted, noise, evaluations=EVALUATIONS, sigma_range=RANGE, micro_batch=MICRO_BATCH)
        said = {"made": made[0], "errors": [each.report.error_distilled for each in found]}
        (folder / f"{rank}.json").write_text(json.dumps(said))


def run(count: int) -> tuple[list[int], list[float]]:
    """Evaluations of each process, and the held-out errors that all of them have."""
    with tempfile.TemporaryDirectory() as folder:
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        command = [*launch, "-m", "benchmarks.ranks", "--worker", folder]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True)
        said = [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(count)]
    assert all(each["errors"] == said[0]["errors"] for each in said)
    return [each["made"] for each in said], said[0]["errors"]


def table(counts: Sequence[int]) -> str:
    """The measurements as a table."""
    steps = " | ".join(f"error, {n} steps" for n in EVALUATIONS)
    lines = [f"| processes | evaluations of each | most, of one process's | {steps} |", "|" + "---|" * (3 + len(EVALUATIONS))]
    alone = 0
    for count in counts:
        made, errors = run(count)
        alone = alone or made[0]
        shown = ", ".join(f"{each:,}" for each in made)
        ends = " | ".join(f"{error:.8f}" for error in errors)
        lines.append(f"| {count} | {shown} | {max(made) / alone:.3f} | {ends} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--worker", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        worker(options.worker)
        return
    steps = ", ".join(map(str, EVALUATIONS))
    print("# A fit on several processes\n")
    print(f"`python -m benchmarks.ranks`: {SAMPLES} samples on the exact model, {MICRO_BATCH} at once, for {steps} steps.")
    print(f"PyTorch {torch.__version__}, gloo, all on one machine. The errors are on held-out samples.\n")
    print(table(options.processes))


if __name__ == "__main__":
    main()
