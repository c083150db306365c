"""The model tried before a fit: a fit asks it for the same samples over and over, at levels in any order, several at once."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dode.errors import FitError
from dode.sampling import Guided

from ..host import interrupted, out_of_memory

Answer = Tensor | Guided
Ask = Callable[[Tensor, float], Answer]
_SAME = 0.03  # of the noise that the model takes away: rounding in half precision stays below, on any device
_ALONE = 0.1  # the same between samples together and one by one, for which devices choose other algorithms


def try_model(ask: Ask, start: Callable[[float], Tensor], levels: Sequence[float]) -> None:
    """Ask a few questions, some of them twice.

    Args:
        ask: ``ask(x, sigma)`` for the first samples.
        start: ``start(sigma)`` is a batch of them at a noise level: two where the fit asks for several at once, else one.
        levels: two noise levels, descending.

    Raises:
        FitError: the same question has another answer the second time, or two samples together have another answer than one
            by one, or none.
    """
    both = [start(level) for level in levels]
    singles = [x[:1] for x in both]
    # A patch may begin anew where the level rises, or keep what it has within a level.
    first: dict[int, Answer] = {}
    for which in (0, 0, 1, 1, 0, 1):
        interrupted()
        answer = ask(singles[which], levels[which])
        if not _finite(answer):
            return  # the fit says that
        if _distance(first.setdefault(which, answer), answer, singles[which]) > _SAME:
            raise FitError(
                "This model answers the same question differently the second time: a patch on it remembers earlier calls, as "
                "guidance with momentum does. A fit would learn from answers that never come again. Take that patch off the "
                "model, or set its momentum to 0."
            )
    if len(both[0]) > 1:
        _try_together(ask, both[-1], levels[-1])


def _try_together(ask: Ask, x: Tensor, level: float) -> None:
    answer: Answer | None = None
    problem = "it gives NaN or infinity"
    try:
        answer = ask(x, level)
    except Exception as error:  # a patch's, of any kind
        if out_of_memory(error):
            raise
        problem = f"it fails ({type(error).__name__}: {str(error)[:200]})"
    if answer is not None and _finite(answer):
        problem = "it answers otherwise"
    interrupted()
    alone = [ask(part, level) for part in x.split(1)]  # what fails here too is not the batch's fault
    if not all(map(_finite, alone)):
        return
    if answer is None or not _finite(answer) or _distance(_joined(alone), answer, x) > _ALONE:
        raise FitError(
            f"Asked for two samples at once, this model does not do what it does for each by itself: {problem}. A patch on it "
            "works with micro_batch 1 only: set micro_batch to 1."
        )


def _parts(answer: Answer) -> tuple[Tensor, ...]:
    return tuple(answer) if isinstance(answer, Guided) else (answer,)


def _joined(answers: Sequence[Answer]) -> Answer:
    parts = [torch.cat(same) for same in zip(*map(_parts, answers), strict=True)]
    return Guided(*parts) if len(parts) == 2 else parts[0]


def _finite(answer: Answer) -> bool:
    return all(bool(part.isfinite().all()) for part in _parts(answer))


def _distance(one: Answer, other: Answer, x: Tensor) -> float:
    """Root mean square over that of the noise taken away, x - denoised: of the output that differs most."""
    if len(_parts(one)) != len(_parts(other)):
        return math.inf
    taken = (x - _parts(one)[0]).float().square().mean().sqrt()
    away = [(a - b).float().square().mean().sqrt() for a, b in zip(_parts(one), _parts(other), strict=True)]
    return float(max(away) / taken.clamp_min(torch.finfo(torch.float32).tiny))
