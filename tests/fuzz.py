"""Mutated parameter files: whatever the bytes, reading gives a valid object or a named refusal.

    python -m tests.fuzz --count 200000

The mutations work on bytes, on the container's header, on the JSON inside it and on the tensors' numbers. A mutation that
brings a refusal nobody has seen yet joins the files that are mutated further, so that the search gets deeper.
"""

import argparse
import contextlib
import copy
import heapq
import json
import math
import random
import re
import struct
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from dode import Entry, ParameterFile, Parameters, build_tableau, schedule
from dode.correction import available_taps
from dode.errors import FormatError, VersionError
from dode.files.parameter_file import from_bytes, to_bytes

GOLDEN = Path(__file__).parent / "golden"
ODD: list[Any] = [
    None, True, False, 0, -0, 1, -1, 2**31, 2**63, 2**64, 10**30, 0.5, -0.5, 1e-320, 1e300, 1e308, -1e308, math.inf, -math.inf,
    math.nan, "", "euler", "ipndm", "noise", "data", "flow", "1", "3", "\0", "\x1b[2J", "\ud800", "../etc/passwd", "x" * 20_000,
    [], {}, [[]], [1], ["a"], [None], {"a": 1}, [0.5] * 300, "F32", "F64", [0, 8], [8, 0], [2**40, 8], [1.0, 2.0],
]  # fmt: skip
NUMBERS = [0.0, -0.0, 1.0, -1.0, 1e-320, 1e-9, 1e5, 1e6, 1.1e6, 1e300, 1.7e308, math.inf, -math.inf, math.nan, 0.999, 2.0]
Json = Any


def apart(data: bytes) -> tuple[dict[str, Any], dict[str, Any] | None, bytes]:
    """Header, parsed content and tensor bytes of a file; raises ValueError, KeyError or TypeError for others."""
    size = struct.unpack("<Q", data[:8])[0]
    if not 2 <= size <= 1 << 20:
        raise ValueError
    header = json.loads(data[8 : 8 + size])
    return header, json.loads(header["__metadata__"]["content"]), data[8 + size :]


def together(header: Any, content: Any, tensors: bytes) -> bytes:
    header["__metadata__"]["content"] = json.dumps(content)
    return joined(json.dumps(header), tensors)


def joined(text: str, tensors: bytes) -> bytes:
    encoded = text.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(encoded)) + encoded + tensors


def places(value: Json) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON value."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        one = waiting.pop()
        keys: Iterable[Any] = one.keys() if isinstance(one, dict) else range(len(one)) if isinstance(one, list) else ()
        for key in keys:
            found.append((one, key))
            waiting.append(one[key])
    return found


def mutate_json(value: Json, rng: random.Random) -> None:
    """Change one to three things of a JSON value in place."""
    for _ in range(rng.randint(1, 3)):
        known = places(value)
        if not known:
            return
        one, key = rng.choice(known)
        kind = rng.randrange(6)
        if kind == 0 and isinstance(one, dict):
            del one[key]
        elif kind == 1 and isinstance(one, dict):
            one[rng.choice(["later", "entries", "report", key + "x", "0.sigmas", "9.values"])] = copy.deepcopy(rng.choice(ODD))
        elif kind == 2 and isinstance(one, list) and len(one) < 2000:
            one.extend(copy.deepcopy(one[: rng.choice([1, 2, 300])]))
        elif kind == 3:
            other, name = rng.choice(known)
            one[key] = copy.deepcopy(other[name])
        elif kind == 4 and isinstance(one[key], (int, float)):
            one[key] = rng.choice([one[key] + 1, one[key] - 1, -one[key], one[key] * 1e9, one[key] / 3])
        else:
            one[key] = copy.deepcopy(rng.choice(ODD))


def by_bytes(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        at = rng.randrange(len(changed)) if changed else 0
        kind = rng.randrange(6)
        if kind == 0 and changed:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[at:at] = rng.randbytes(rng.choice([1, 8, 64]))
        elif kind == 2:
            del changed[at : at + rng.choice([1, 8, 100])]
        elif kind == 3:
            del changed[at:]
        elif kind == 4 and changed:
            changed[at : at + 8] = struct.pack("<d", rng.choice(NUMBERS))
        elif changed:
            other = rng.randrange(len(changed))
            changed[at:at] = changed[other : other + rng.choice([1, 8, 200])]
    return bytes(changed)


def by_length(data: bytes, rng: random.Random) -> bytes:
    size = struct.unpack("<Q", data[:8].ljust(8, b"\0"))[0]
    wrong = [0, 1, 2, 7, size - 1, size + 1, size + 8, len(data), 1 << 20, (1 << 20) + 1, 1 << 31, 1 << 62, (1 << 64) - 1]
    return struct.pack("<Q", rng.choice(wrong) & ((1 << 64) - 1)) + data[8:]


def by_header(data: bytes, rng: random.Random) -> bytes:
    header, _, tensors = apart(data)
    mutate_json(header, rng)
    return joined(json.dumps(header), tensors)


def by_content(data: bytes, rng: random.Random) -> bytes:
    header, content, tensors = apart(data)
    mutate_json(content, rng)
    return together(header, content, tensors)


def by_text(data: bytes, rng: random.Random) -> bytes:
    """JSON that no encoder writes: keys twice, deep nesting, huge numbers, cut off texts, in the header or in the content."""
    header, content, tensors = apart(data)
    inside = rng.random() < 0.7
    text = json.dumps(content if inside else header)
    at = rng.randrange(len(text))
    odd = ["[" * rng.choice([5, 40, 5000]), "{" * 40, '{"a":' * 1000, "NaN", "1e999", "9" * rng.choice([30, 500, 5000]), '"',
           "\\", ",", "]" * 9, "\0", "\\ud800", "/*", "'", text[at : at + 200]]  # fmt: skip
    text = text[:at] + rng.choice(odd) + text[at + rng.choice([0, 1, 20]) :]
    if not inside:
        return joined(text, tensors)
    header["__metadata__"]["content"] = text
    return joined(json.dumps(header), tensors)


def by_numbers(data: bytes, rng: random.Random) -> bytes:
    header, content, tensors = apart(data)
    changed = bytearray(tensors)
    for _ in range(rng.choice([1, 1, 3])):
        if len(changed) >= 8:
            at = 8 * rng.randrange(len(changed) // 8)
            old = struct.unpack("<d", changed[at : at + 8])[0]
            value = rng.choice([rng.choice(NUMBERS), old * rng.uniform(-3, 3), old * rng.uniform(0.9, 1.1), 0.0])
            changed[at : at + 8] = struct.pack("<d", value)
    return together(header, content, bytes(changed))


def by_tensor(data: bytes, rng: random.Random) -> bytes:
    """Shapes, types and places of tensors that do not agree with one another or with the file."""
    header, content, tensors = apart(data)
    names = [name for name in header if name != "__metadata__"]
    if not names:
        return joined(json.dumps(header), tensors)
    described = header[rng.choice(names)]
    kind = rng.randrange(5)
    if kind == 0:
        described["dtype"] = rng.choice(["F32", "BF16", "I64", "F8_E4M3", "", 3])
    elif kind == 1:
        described["data_offsets"] = [n + rng.choice([-8, 0, 8, 16]) for n in described["data_offsets"]]
    elif kind == 2:
        described["shape"] = rng.choice(
            [[], [0], [1, 1], list(reversed(described["shape"])), [*described["shape"], 1], [-3], [1 << 40]]
        )
    elif kind == 3:
        header[rng.choice(names)] = copy.deepcopy(described)
    else:
        number, _, part = rng.choice(names).partition(".")
        header[f"{number}.{rng.choice(['sigmas', 'values', 'guidance', 'model_sigmas', 'weights'])}"] = header.pop(
            f"{number}.{part}"
        )
    return together(header, content, tensors)


MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    *(by_bytes, by_length, by_header, by_text, by_tensor),
    *(by_content, by_content, by_content, by_numbers, by_numbers, by_numbers),
)


@cache
def seeds() -> tuple[bytes, ...]:
    """Good files, of every version."""
    example = Path(__file__).parent.parent / "example_parameters"
    return tuple(path.read_bytes() for folder in (GOLDEN, example) for path in sorted(folder.glob("*.safetensors")))


def mutated(known: list[bytes], rng: random.Random) -> tuple[str, bytes]:
    """One file that nobody has written, and what was done to it."""
    data, names = rng.choice(known[: len(seeds())] if rng.random() < 0.5 else known), []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        mutation = rng.choice(MUTATIONS)
        try:
            data = mutation(data, rng)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError, struct.error):
            mutation = by_bytes  # it is no longer a file that can be taken apart
            data = mutation(data, rng)
        names.append(mutation.__name__)
    return "+".join(names), data


def fuzz(count: int, seed: int, valid: Callable[[bytes, ParameterFile], None]) -> "Outcome":
    """Read so many mutated files; ``valid`` is called for those that are read.

    Raises whatever reading raises beyond the two named refusals, with the file in ``test_artifacts/fuzz_failure.bin``.
    """
    rng, known, outcome = random.Random(seed), list(seeds()), Outcome()
    for _ in range(count):
        how, data = mutated(known, rng)
        began = time.process_time()
        try:
            content = from_bytes(data)
            outcome.took(time.process_time() - began, data)
            valid(data, content)
            said = "valid"
        except (FormatError, VersionError) as refusal:
            outcome.took(time.process_time() - began, data)
            said = f"{type(refusal).__name__}: " + re.sub(r"'[^']*'|\d[\d.e+-]*|\[.*\]", "…", str(refusal))[:90]
        except BaseException:
            kept = Path(__file__).parent.parent / "test_artifacts" / "fuzz_failure.bin"
            kept.parent.mkdir(exist_ok=True)
            kept.write_bytes(data)
            print(f"{how}: see {kept}", file=sys.stderr)
            raise
        if said not in outcome.said and len(data) < 20_000 and len(known) < 400:
            known.append(data)
        outcome.said[said] += 1
    return outcome


class Outcome:
    """What reading said, and the files that took longest."""

    def __init__(self) -> None:
        self.said: Counter[str] = Counter()
        self._slow: list[tuple[float, bytes]] = []

    def took(self, seconds: float, data: bytes) -> None:
        if len(self._slow) < 20:
            heapq.heappush(self._slow, (seconds, data))
        elif seconds > self._slow[0][0]:
            heapq.heapreplace(self._slow, (seconds, data))

    def cost(self) -> tuple[float, float]:
        """The most seconds and bytes that one of the slowest takes, read three times again: once may be another's fault."""
        return max(min(_seconds(data) for _ in range(3)) for _, data in self._slow), max(peak(data) for _, data in self._slow)


def _seconds(data: bytes) -> float:
    """Of one core: other work on the machine does not count."""
    began = time.process_time()
    with contextlib.suppress(FormatError, VersionError):
        from_bytes(data)
    return time.process_time() - began


def peak(data: bytes) -> int:
    """The most bytes that reading takes at a time, those of the file aside."""
    tracemalloc.start()
    try:
        _seconds(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def reread(data: bytes, content: ParameterFile) -> None:
    """What was read can be used, and written and read again."""
    for entry in content.entries:
        assert entry.parameters.tableau().evaluations == entry.evaluations
    assert from_bytes(to_bytes(content)).notes == content.notes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    outcome = fuzz(options.count, options.seed, reread)
    refused = options.count - outcome.said["valid"]
    seconds, size = outcome.cost()
    valid = outcome.said["valid"]
    print(f"{options.count} mutated files, seed {options.seed}: {valid} valid, {refused} refused by name, 0 other.")
    print(f"{len(outcome.said) - 1} different refusals; the slowest read took {1000 * seconds:.0f} ms and {size / 1e6:.1f} MB.")
    print("Files that cost the most that they can, the best of three:")
    for name, data in extremes().items():
        print(f"{name:34} {1000 * min(_seconds(data) for _ in range(3)):4.0f} ms {peak(data) / 1e6:5.1f} MB")


@cache
def extremes() -> dict[str, bytes]:
    """Files that cost as much as a file may, by name; some are valid."""

    def sampler(method: str, order: int, steps: int) -> Entry:
        sigmas = tuple(schedule("exponential", steps, 0.01, 10.0))
        bare = Parameters(method, order, "noise", sigmas, np.zeros((len(build_tableau(method, sigmas, order).rows), 1)))
        taps, available = np.arange(16)[None, :], available_taps(bare.base())[:, None]
        values, guidance = np.where(taps < available, 0.01, 0.0), np.where(taps <= available, 0.01, 0.0)
        return Entry(replace(bare, values=values, guidance=guidance, model_sigmas=bare.base().evaluation_sigmas))

    def header(text: str) -> bytes:
        return joined(text[: 1 << 20], b"")

    cases = {"euler": (1, 1000), "ipndm": (4, 1000), "seeds_3": (3, 340), "sa_solver_pece": (3, 510), "uni_pc": (3, 510)}
    found = {
        f"{name}, {steps} steps": to_bytes(ParameterFile((sampler(name, order, steps),)))
        for name, (order, steps) in cases.items()
    }
    found["deis, 256 entries of 4 steps"] = to_bytes(ParameterFile((sampler("deis", 4, 3),) * 256))
    found["1 MiB of brackets"] = header("[" + "[]," * (1 << 19))
    found["1 MiB of objects"] = header('{"a":[' + "{}," * 32_000 + "1.5," * (1 << 18))
    found["1 MiB of numbers"] = header('{"a":[' + ",".join(["1.5"] * 262_000) + "]}")
    found["1 MiB of quotes in a text that does not end"] = header('"' + '\\"' * (1 << 19))
    return found


if __name__ == "__main__":
    main()
