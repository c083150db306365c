"""A fit on several processes, such as ``torchrun`` starts, one for each GPU: samples are shared out, their results gathered.

Every process makes the same calls in the same order and holds all results, so every one takes the same decisions; those that
hang on rounding are the first one's. Without a process group, or in one of a single process, nothing here does anything.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from dode.errors import DodeError, FitError

T = TypeVar("T")
_LOST = (
    "Another process of this fit has ended, so this one ends too. Nothing more was saved; what that process printed says why. "
    "Start the fit again."
)
_groups: dict[Any, Any] = {}  # of CPU memory, by the group that there was


def number() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if _many() else 0


def count() -> int:
    """How many processes there are."""
    return dist.get_world_size() if _many() else 1


def gathered(mine: T) -> list[T]:
    """What each of the processes has, in their order.

    Raises:
        FitError: one of them has ended.
    """
    if not _many():
        return [mine]
    found: list[Any] = [None] * count()
    with _said_clearly():
        dist.all_gather_object(found, mine, group=_group())
    return found


def agreed(mine: T) -> T:
    """What the first process has.

    Raises:
        FitError: one of them has ended.
    """
    if not _many():
        return mine
    found = [mine]
    with _said_clearly():
        dist.broadcast_object_list(found, src=0, group=_group())
    return found[0]


def part(batches: Sequence[Tensor]) -> list[Tensor]:
    """This process's part of some samples in micro-batches (B,), in such of the same size; the parts follow each other."""
    if not _many():
        return list(batches)
    mine = torch.cat(list(batches)).tensor_split(count())[number()]
    return list(mine.split(max(len(batches[0]), 1))) if len(mine) else []


def together(
    work: Callable[[], list[T]], spent: Callable[[], int] = lambda: 0, hear: Callable[[int], None] = lambda others: None
) -> list[T]:
    """Do this process's part of a work; what all did, one after the other.

    Args:
        spent: what this process has spent on it, afterwards; ``hear`` gets what the others have.

    Raises:
        Whatever the work raised in one of the processes, in all of them.
    """
    if not _many():
        return work()
    done: list[T] = []
    failed: BaseException | None = None
    try:
        done = work()
    except Exception as error:
        failed = error
    told = failed if failed is None or _travels(failed) else FitError(f"Process {number()}: {type(failed).__name__}: {failed}")
    found = gathered((done, told, spent()))
    hear(sum(paid for _, _, paid in found) - found[number()][2])
    if failed is not None:
        raise failed
    for _, error, _ in found:
        if error is not None:
            raise error
    return [each for results, _, _ in found for each in results]


def anyone(mine: bool) -> bool:
    """Whether any process says so."""
    return any(gathered(mine))


@contextmanager
def from_environment() -> Iterator[int]:
    """The process group that ``torchrun`` describes, for as long as this is open; yields this process's number.

    Raises:
        FitError: the processes do not find each other.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or not dist.is_available() or dist.is_initialized():
        yield number()
        return
    with _said_clearly("The processes of this fit did not find each other"):
        dist.init_process_group("gloo")
    try:
        yield number()
    finally:
        _groups.clear()
        dist.destroy_process_group()


def device(name: str) -> str:
    """A device of a process's own, where only a kind is named: "cuda" is "cuda:1" in the second process on a machine."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if name == "cuda" and _many() else name


def _many() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _group() -> Any:
    """A group that sends from CPU memory, where results lie, whatever the process group is made for."""
    if dist.get_backend() == "gloo":
        return None
    key = id(dist.group.WORLD)
    if key not in _groups:
        _groups[key] = dist.new_group(backend="gloo")
    return _groups[key]


def _travels(error: BaseException) -> bool:
    """Whether an error means the same in another process."""
    return isinstance(error, DodeError) or type(error).__module__.startswith("dode.")


@contextmanager
def _said_clearly(what: str = _LOST) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ConnectionError) as error:  # what the backends raise where a process is gone
        raise FitError(f"{what} ({str(error).splitlines()[0][:200]}).") from error
