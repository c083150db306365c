"""Main memory that a fit takes for large latents, and its own work beside the model.

    python -m benchmarks.fit_memory > benchmarks/results/fit_memory.md

The model here is a few elementwise operations, so that nearly all of the time is the fit's own; it is compared with calls of 20
ms each. Each latent runs in a process of its own: the peak of its resident memory, less what Python, torch and the pack have
before the fit begins.
"""

import resource
import subprocess
import sys
import time
from typing import Any

CASES = {"picture, SDXL": (32, (4, 128, 128), 2.0), "video": (16, (16, 21, 60, 104), 8.0)}  # samples, latent, GiB at most
STEPS, CALL, MICRO_BATCH = 6, 0.020, 2


def peak() -> float:
    """GiB of resident memory, at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(name: str) -> None:
    """Fit on one of the latents and print a row of the table."""
    import torch

    from dode.fit.all_numbers import distill_students
    from dode.sampling import Guided

    samples, shape, most = CASES[name]
    spent = calls = 0.0

    def denoise(x: Any, sigma: Any) -> Guided:
        """Data of variance 1/4 beside two points, softly."""
        nonlocal spent, calls
        began = time.perf_counter()
        level = float(sigma[0])
        near = x / (1 + 4 * level * level)
        guidance = torch.tanh(x / (0.5 + level)).mul_(0.1)
        result = Guided(near + 2 * guidance, guidance)
        spent, calls = spent + time.perf_counter() - began, calls + len(x)
        return result

    before = peak()
    noise = torch.randn(samples, *shape, generator=torch.Generator().manual_seed(0))
    began = time.perf_counter()
    (found,) = distill_students(denoise, noise, evaluations=[STEPS], sigma_range=(0.03, 15.0), micro_batch=MICRO_BATCH)
    own = time.perf_counter() - began - spent
    part = own / (calls * CALL)
    size = "×".join(map(str, shape))
    print(f"| {name} | {samples} × {size} | {peak() - before:.2f} | {most:g} | {calls:.0f} | {own:.0f} | {100 * part:.1f} % |")
    assert found.report.error_distilled <= found.report.error_base


def main() -> None:
    if len(sys.argv) > 1:
        return measure(sys.argv[1])
    print(f"# Memory and own work of a fit\n\n    python -m benchmarks.fit_memory\n\nMode balanced, {STEPS} steps, guidance.\n")
    print(
        "| | latents | GiB | wanted | evaluations | own work, s | beside calls of 20 ms |\n|---|---|---|---|---|---|---|",
        flush=True,
    )
    for name in CASES:
        subprocess.run([sys.executable, "-m", "benchmarks.fit_memory", name], check=True)


if __name__ == "__main__":
    main()
