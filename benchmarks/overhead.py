"""What a table costs beside the stock sampler of the same name, with a model that does nothing.

    COMFYUI_DIR=… python -m benchmarks.overhead > benchmarks/results/overhead.md

Whole sampling loops, wall time: stock, the table, and the table distilled, in turn, many times over; the figure is the median
of the ratios of neighbouring runs, so that what else the machine does falls on all three alike. Memory is the most that a run
holds at once beyond its input, in latents. Tables are built before the clock starts; how long that takes is listed as well.
"""

import argparse
import inspect
import platform
import statistics
import time
import timeit
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dode.correction import available_taps, correct
from dode.methods import METHODS, Stock, build_tableau
from dode.sampling import sample
from dode.schedules import schedule
from dode.tableau import Tableau
from tests.stock import StockModel, function_of

SHAPES = {"image, 4 channels": (1, 4, 128, 128), "image, 16 channels": (1, 16, 128, 128), "video": (1, 16, 9, 60, 104)}
STEPS = 20


class Still(StockModel):
    """A model that does nothing: it returns one and the same tensor, or copies of it."""

    def __init__(self, like: Tensor, copies: bool = False):
        super().__init__(lambda x, sigma: x, "log_sigma")
        self.output, self.copies = torch.randn_like(like), copies

    def __call__(self, x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
        return self.output.clone() if self.copies else self.output


class Memory(TorchDispatchMode):
    """Counts the bytes of living tensors that were made inside."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._living: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = [t.untyped_storage().data_ptr() for t in args if isinstance(t, Tensor)]
        if isinstance(out, Tensor):
            pointer, size = out.untyped_storage().data_ptr(), out.untyped_storage().nbytes()
            if size > 4096 and pointer not in self._living and pointer not in given:
                self._living.add(pointer)
                self.now += size
                self.most = max(self.most, self.now)
                weakref.finalize(out, self._freed, pointer, size)
        return out

    def _freed(self, pointer: int, size: int) -> None:
        self._living.discard(pointer)
        self.now -= size


def held(run: Callable[[], Tensor], latent: Tensor) -> float:
    """Latents a run holds at once."""
    with Memory() as memory:
        run()
    return memory.most / latent.untyped_storage().nbytes()


def ratios(runs: list[Callable[[], Tensor]], repeats: int) -> tuple[float, list[float]]:
    """Median milliseconds of the first run, and the others' median ratios to it."""
    for run in runs:
        run()
    first: list[float] = []
    relative: list[list[float]] = [[] for _ in runs[1:]]
    for _ in range(repeats):
        times = []
        for run in runs:
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        first.append(times[0])
        for found, spent in zip(relative, times[1:], strict=True):
            found.append(spent / times[0])
    return 1e3 * statistics.median(first), [statistics.median(r) for r in relative]


def distilled(table: Tableau, directions: Any) -> Tableau:
    """As a fit would leave it: a correction in every row that can have one."""
    return correct(table, directions, np.where(available_taps(table)[:, None] > 0, 0.01, 0.0))


def stock_run(stock: Stock, order: int, model: StockModel, x: Tensor, sigmas: Tensor) -> Callable[[], Tensor]:
    """A call of the stock sampler as its package makes it."""
    function, options = function_of(stock), dict(stock.options(order))
    if "noise_sampler" in inspect.signature(function).parameters:
        options["noise_sampler"] = lambda *_: torch.zeros(())
    return lambda: function(model, x, sigmas.clone(), extra_args={}, disable=True, **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=31)
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    grid, long = schedule("karras", STEPS, 0.03, 14.6), schedule("karras", 1000, 0.03, 14.6)
    print(f"# Cost of a table, {STEPS} steps, a model that does nothing\n")
    print(f"torch {torch.__version__}, one thread, {platform.machine()}, float32, median of {options.repeats}.\n")
    print("time: table / stock and distilled table / stock. memory: latents held at once by stock, table, distilled table.")
    print("build: the table of 1000 steps, best of three.\n")
    heads = [f"{name} {shape}" for name, shape in SHAPES.items()]
    print(f"| method | stock function | {' | '.join(heads)} | memory | build |")
    print("|" + "---|" * (len(SHAPES) + 4))
    for name in options.methods:
        method = METHODS[name]
        if not method.stock:
            continue
        stock, order = method.stock[0], method.default_order
        if stock.most_steps(order) < STEPS:
            stock = METHODS["lms"].stock[0]
        table = build_tableau(name, grid, order)
        edited = distilled(table, method.directions)
        cells, memory = [], ""
        with torch.no_grad():
            for shape in SHAPES.values():
                x = torch.randn(shape) * float(grid[0])
                model = Still(x)
                sigmas = torch.tensor(grid, dtype=torch.float32)
                runs = [
                    stock_run(stock, order, model, x, sigmas),
                    lambda model=model, x=x, table=table: sample(model, x, table),
                    lambda model=model, x=x, table=edited: sample(model, x, table),
                ]
                spent, found = ratios(runs, options.repeats)
                cells.append(f"{found[0]:.2f}, {found[1]:.2f} ({spent:.1f} ms)")
                if not memory:
                    model.copies = True
                    memory = ", ".join(f"{held(run, x):.0f}" for run in runs)
        built = 1e3 * min(timeit.repeat(lambda name=name, order=order: build_tableau(name, long, order), number=1, repeat=3))
        function = stock.function.partition(":")[2]
        print(f"| {name} | {function} | {' | '.join(cells)} | {memory} | {built:.0f} ms |", flush=True)


if __name__ == "__main__":
    main()
