"""Kills writers of parameter files with SIGKILL and looks at what is left: ``python -m tests.kill_writer FOLDER KILLS SEED``.

In a process of its own, since it forks: a child imports nothing anew, so that hundreds of kills take seconds.

The first part kills at every call that the writer makes to the system, before it and after it; the second at random moments.
"""

import builtins
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from dode import Entry, Parameters, save_parameters
from dode.errors import FileExistsAlready
from dode.files.parameter_file import ParameterFile, to_bytes

SIGMAS = tuple(float(n) for n in range(40, -1, -1))
CALLS = ("open", "fsync", "link", "replace", "unlink", "rename", "scandir", "close")


def entries(value: float) -> list[Entry]:
    values = np.full((40, 4), value)
    values[:4] = 0
    return [Entry(Parameters("euler", 1, "data", SIGMAS, values))] * 8


OLD, NEW = entries(0.25), entries(-0.5)
BYTES = tuple(to_bytes(ParameterFile(tuple(content))) for content in (OLD, NEW))


def in_child(work: Callable[[], None]) -> int:
    """Start some work in a fork; returns its process id."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return child


def at_call(number: int, after: bool, action: Callable[[], None]) -> None:
    """From now on, do something at this process's call of this number to the system, before or after it."""
    made = 0

    def watched(real: Callable[..., Any]) -> Callable[..., Any]:
        def watch(*args: Any, **named: Any) -> Any:
            nonlocal made
            made += 1
            mine = made == number
            if mine and not after:
                action()
            result = real(*args, **named)
            if mine and after:
                action()
            return result

        return watch

    for name in CALLS:
        setattr(os, name, watched(getattr(os, name)))
    builtins.open = watched(builtins.open)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed(child: int) -> bool:
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def state(path: Path) -> str:
    """What is there: nothing, the old file, the new one, or torn."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return "nothing"
    return {BYTES[0]: "old", BYTES[1]: "new"}.get(data, "torn")


def at_every_call(folder: Path) -> Counter[str]:
    found: Counter[str] = Counter()
    for overwrite, after in ((True, False), (True, True), (False, False), (False, True)):
        for call in count(1):
            path = folder / f"call_{overwrite}_{after}_{call}.safetensors"
            if overwrite:
                save_parameters(path, OLD)

            def work(path: Path = path, call: int = call, after: bool = after, overwrite: bool = overwrite) -> None:
                at_call(call, after, die)
                save_parameters(path, NEW, overwrite=overwrite)

            died, left = killed(in_child(work)), state(path)
            if left not in (("old", "new") if overwrite else ("nothing", "new")):
                raise SystemExit(f"killed at call {call}, after {after}, overwrite {overwrite}: {left}")
            if not died:  # there is no such call
                break
            found[left] += 1
    return found


def at_random(folder: Path, kills: int, rng: random.Random) -> Counter[str]:
    found: Counter[str] = Counter()

    def forever() -> None:
        while True:
            for content in (NEW, OLD):
                save_parameters(path, content, overwrite=True)

    def once() -> None:
        try:
            save_parameters(fresh, NEW)
        except FileExistsAlready:
            os._exit(1)

    path = folder / "random.safetensors"
    save_parameters(path, OLD)
    for number in range(kills):
        fresh = folder / f"fresh_{number}.safetensors"
        overwrite = bool(number % 2)
        child = in_child(forever if overwrite else once)
        time.sleep(rng.uniform(0, 0.02 if overwrite else 0.06))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        left = state(path if overwrite else fresh)
        found[left] += 1
        if left not in (("old", "new") if overwrite else ("nothing", "new")):
            raise SystemExit(f"torn after kill {number}: {left}")
    return found


def in_between(folder: Path) -> Counter[str]:
    """A second writer takes the same free name, from start to end, at every call of the first: one of them gets it."""
    found: Counter[str] = Counter()
    for after in (False, True):
        for call in count(1):
            path, ends = folder / f"between_{after}_{call}.safetensors", folder / f"between_{after}_{call}"

            def write(who: str, content: list[Entry], path: Path = path, ends: Path = ends) -> None:
                try:
                    save_parameters(path, content)
                    ends.with_suffix(f".{who}").write_text("saved")
                except FileExistsAlready:
                    ends.with_suffix(f".{who}").write_text("told")

            def first(call: int = call, after: bool = after, write: Callable[..., None] = write) -> None:
                at_call(call, after, lambda: write("second", OLD))
                write("first", NEW)

            os.waitpid(in_child(first), 0)
            second = ends.with_suffix(".second")
            if not second.exists():
                break
            said, left = (ends.with_suffix(".first").read_text(), second.read_text()), state(path)
            if (said, left) not in ((("saved", "told"), "new"), (("told", "saved"), "old")):
                raise SystemExit(f"a second writer at call {call}, after {after}: {said}, {left}")
            found[left] += 1
    return found


def main() -> None:
    folder, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    folder.mkdir(parents=True, exist_ok=True)
    calls = at_every_call(folder)
    left = at_random(folder, kills, random.Random(seed))
    print(json.dumps({"killed at a call": calls, "killed at random": left, "second writer at a call": in_between(folder)}))


if __name__ == "__main__":
    main()
