"""What the pack costs in a real ComfyUI: many queued runs, and a fit on latents of the usual sizes.

    python -m benchmarks.load > benchmarks/results/load.md

The first part queues runs that mix all nodes and watches the server's memory. The second distills on latents of Stable
Diffusion's sizes with a network that is thousands of times cheaper than a real one, and measures what is left when the host's
guider, which runs it, is taken away: in processor time of the working thread, so that other work on the machine does not count.
The third counts what a fit keeps where the network runs.
"""

import argparse
import platform
import re
import statistics
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
from torch import Tensor

from dode.fit.all_numbers import distill_students
from dode.fit.distill import distill
from dode.sampling import Guided
from dode.schedules import schedule
from dode.teacher import Teacher
from tests.comfy import graphs
from tests.comfy.conftest import PACKS
from tests.comfy.graphs import CFG, STEPS, demo, ksampler, sampler_custom, sampler_custom_advanced
from tests.comfy.server import ROOT, ComfyServer
from tests.comfy.workflow import Graph, link
from tests.comfyui import comfyui_dir

SIZES = ((4, 64, 64), (4, 128, 128))
SAMPLES, MICRO_BATCH, TEACHER = 64, 4, 100  # teacher's evaluations of a sample
WIDTH = 96  # channels of the cheap network, which is two convolutions


def start(folder: Path) -> ComfyServer:
    """A server with this pack and the test models."""
    return ComfyServer(comfyui_dir(), folder, [ROOT, PACKS / "dode-test-models"])


# Runs that follow one another: each builds a workflow with a seed of its own, so that nothing comes from the cache.


def _fit(graph: Graph, seed: int) -> None:
    node = graphs.distill(graph, demo(graph), seed=seed, save_as="load/fitted")
    graph.add("DODEInspect", parameters=link(node))


def _fit_prompts(graph: Graph, seed: int) -> None:
    on = demo(graph)
    on["positive"] = link(graph.add("DODEPromptSet", clip=on["clip"], prompts="fish\ntree"))
    node = graphs.distill(graph, on, seed=seed)
    words = {"author": "somebody", "licence": "CC0-1.0", "notes": str(seed)}
    graph.add("DODESave", parameters=link(node), name="load/saved", **words)


def _sample(graph: Graph, seed: int) -> None:
    on = demo(graph)
    loaded = graph.add("DODELoad", file="load/first.safetensors", steps=STEPS, model=on["model"])
    sampler = graph.add("DODESampler", parameters=link(loaded), strength=1 / (1 + seed % 7))
    sigmas = graph.add("DODESigmas", parameters=link(loaded))
    node = sampler_custom(graph, on, link(sampler), link(sigmas), noise_seed=seed)
    graph.add("PreviewImage", images=link(graph.add("VAEDecode", samples=link(node), vae=on["vae"])))


def _advanced(graph: Graph, seed: int) -> None:
    on = demo(graph, text=f"a tree {seed}")
    loaded = graph.add("DODELoad", file="load/first.safetensors", steps=STEPS)
    graph.save_latent(link(sampler_custom_advanced(graph, on, link(loaded, 1), link(loaded, 2))))


def _ksampler(graph: Graph, seed: int) -> None:
    graph.save_latent(link(ksampler(graph, demo(graph), seed=seed, scheduler=("karras", "dode")[seed % 2])))


def _compare(graph: Graph, seed: int) -> None:
    on = demo(graph)
    loaded = graph.add("DODELoad", file="load/first.safetensors", steps=STEPS)
    inputs = {name: on[name] for name in ("model", "positive", "negative", "latent", "vae")} | {"cfg": CFG, "seed": seed}
    graph.add("DODECompare", parameters=link(loaded), reference="heun", reference_substeps=2, **inputs)


RUNS: tuple[Callable[[Graph, int], None], ...] = (_fit, _sample, _ksampler, _compare, _fit_prompts, _advanced)


def queue(comfy: ComfyServer, runs: int) -> list[float]:
    """Resident memory of the server after each of so many runs, in MiB.

    Raises:
        RuntimeError: a run failed.
    """
    graph = Graph()
    graphs.distill(graph, demo(graph), save_as="load/first")
    comfy.run(graph.prompt)
    process, found = psutil.Process(comfy.process.pid), []
    for number in range(runs):
        graph = Graph()
        RUNS[number % len(RUNS)](graph, 1000 + number)
        run = comfy.run(graph.prompt)
        if run.status != "success":
            raise RuntimeError(f"run {number}: {run.error}")
        found.append(process.memory_info().rss / 2**20)
    return found


def overhead(
    comfy: ComfyServer, shape: tuple[int, ...], samples: int = SAMPLES, mode: str = "paper", width: int = WIDTH
) -> dict[str, float]:
    """Processor seconds of a fit in all, in the host's guider, and wall time; and how often the guider was called."""
    label = f"{mode}_{'x'.join(map(str, shape))}_{samples}"
    graph = Graph()
    made = graph.add("DodeTestModel", kind="eps", width=width)
    model = graph.add("DodeTestClock", model=link(made), label=label)
    latent = graph.add("EmptyLatentImage", width=8 * shape[2], height=8 * shape[1], batch_size=1)
    on = {"model": link(model), "positive": link(made, 1), "negative": link(made, 2), "latent": link(latent)}
    changes = {"steps": 10, "samples": samples, "micro_batch": MICRO_BATCH, "teacher_substeps": TEACHER // 10, "mode": mode}
    graphs.distill(graph, on, teacher="euler", **changes)
    run = comfy.run(graph.prompt, timeout=3600)
    if run.status != "success":
        raise RuntimeError(run.error)
    total, guider, calls, wall = map(float, re.findall(rf"clock {label}: (\S+) (\S+) (\S+) (\S+)", comfy.log())[-1])
    return {"total": total, "guider": guider, "calls": calls, "wall": wall}


def kept(shape: tuple[int, ...], mode: str, samples: int = 16) -> float:
    """Latents for each sample of a micro-batch that a fit keeps of what the network returns, at most.

    The network answers in float64 and the fit works in float32: what it takes over is a copy, as it would be from another
    device, and the answers that are still alive are what the fit keeps there.
    """
    outputs: list[weakref.ref[Tensor]] = []
    most = 0

    def network(x: Tensor, sigma: Tensor) -> Guided:
        nonlocal most
        out = [torch.tanh(x.double()) * 0.9**k for k in range(2)]
        outputs[:] = [ref for ref in outputs if ref() is not None] + [weakref.ref(o) for o in out]
        most = max(most, sum(o.nbytes for ref in outputs if (o := ref()) is not None))
        return Guided(*out)

    noise = torch.randn(samples, *shape, generator=torch.Generator().manual_seed(0))
    fixed = {"micro_batch": MICRO_BATCH, "teacher": Teacher("euler", substeps=3)}
    if mode == "paper":
        distill(network, noise * 14.6, schedule("karras", 4, 0.03, 14.6), **fixed)
    else:
        distill_students(network, noise, evaluations=[4], sigma_range=(0.03, 14.6), solvers=("dpmpp_2m",), **fixed)
    return most / (MICRO_BATCH * noise[0].numel() * 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"# Load\n\nPrinted by `python -m benchmarks.load`; torch {torch.__version__}, {platform.machine()}.\n")
    with tempfile.TemporaryDirectory() as folder:
        comfy = start(Path(folder))
        try:
            memory = queue(comfy, options.runs)
            tenth = max(1, len(memory) // 10)
            print(f"## {options.runs} queued runs, all nodes mixed\n\n| runs | memory of the server, MiB (median) |\n|---|---|")
            for first in range(0, len(memory), tenth):
                part = memory[first : first + tenth]
                print(f"| {first + 1} to {first + len(part)} | {statistics.median(part):.0f} |", flush=True)
            half = len(memory) // 2
            growth = statistics.median(memory[-tenth:]) - statistics.median(memory[half : half + tenth])
            print(f"\nGrowth over the second half: {growth:+.1f} MiB, {1024 * growth / max(1, half - tenth):+.0f} KiB a run.\n")
            print(
                f"## A fit with a cheap network\n\nTwo convolutions, 4 to {WIDTH} to 4 channels. {options.samples} samples, "
                f"{MICRO_BATCH} at once, mode `paper`, 10 steps of Euler, teacher of {TEACHER} evaluations, guidance {CFG:g}."
                " Processor time of the working thread.\n"
            )
            print("| latent | calls of the guider | in all | in the guider | own | own part | wall |")
            print("|---|---|---|---|---|---|---|")
            for shape in SIZES:
                found = overhead(comfy, shape, options.samples)
                own = found["total"] - found["guider"]
                cells = [f"{found[k]:.1f} s" for k in ("total", "guider")] + [
                    f"{own:.2f} s",
                    f"{100 * own / found['total']:.1f} %",
                ]
                print(
                    f"| {'×'.join(map(str, shape))} | {found['calls']:.0f} | {' | '.join(cells)} | {found['wall']:.0f} s |",
                    flush=True,
                )
        finally:
            comfy.close()
    print("\n## Kept where the network runs\n\nOf what the network returned (two latents a call), latents for each sample of a "
          "micro-batch; each call's input comes on top. Everything else waits in the processor's memory.\n")  # fmt: skip
    print("| latent | paper | balanced |\n|---|---|---|")
    for shape in SIZES:
        print(f"| {'×'.join(map(str, shape))} | {kept(shape, 'paper'):.1f} | {kept(shape, 'balanced'):.1f} |", flush=True)


if __name__ == "__main__":
    main()
