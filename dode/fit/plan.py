"""What a fit spends, in evaluations of the model: how samples are shared out over its rounds, and what it takes by stage."""

import math
from collections.abc import Sequence

import numpy as np

from dode.fit.free_parameters import Freedom

TEACHER_STEPS = 10  # of the coarse grid that the teacher subdivides
RUNS = ((8, 2), (4, 4))  # of the undistilled solvers left, so many run for real, on so many samples
FEWER_RUNS = ((4, 2),)  # the same for a student whose teacher and samples are there already
FURTHER_SCALE = 2  # a further guidance scale takes every so many-th sample
_FURTHER_STUDENT = 11.5  # evaluations a sample, times its own, that a further student may take
_SPARING, _UNSPARING = 450, 18_000  # evaluations of a fit: for each of its own after the first, or in all
_FEWEST, _MOST = 8, 96  # samples that a fit takes by itself
_UNGUIDED = 2  # times as many teacher steps, and evaluations in all, where one is a single call of the network and not two
_TRIED = 0.7  # of the steps that a round may try, as a rule


def usual_substeps(evaluations: int, guided: bool) -> int:
    """The usual teacher's steps for each of ten, for students of up to so many evaluations."""
    return min(math.ceil(0.37 * max(evaluations, 4)), 6) * (1 if guided else _UNGUIDED)


def usual_samples(freedom: Freedom, evaluations: int, *, guided: bool) -> int:
    """How many samples a fit takes by itself: as many as its share of evaluations pays for, from 8 to 96.

    Example:
        >>> usual_samples(Freedom(), 6, guided=True)
        20
    """
    share = _SPARING * (evaluations - 1) if freedom.sparing else _UNSPARING
    share *= 1 if guided else _UNGUIDED
    most = _FEWEST
    while most < _MOST and sum(planned(freedom, most + 2, (evaluations,), guided=guided).values()) <= share:
        most += 2
    return most


def parts(samples: list[int], rounds: int) -> list[list[int]]:
    """The samples of each round, as 1 : 2 : 3 …, so that most have derivatives near the result."""
    if rounds == 0:
        return []
    sizes = np.cumsum([number + 1 for number in range(rounds)])
    cuts = [math.ceil(len(samples) * size / sizes[-1]) for size in sizes]
    return [part for low, high in zip([0, *cuts], cuts, strict=False) if (part := samples[low:high])]


def derivative_evaluations(freedom: Freedom, evaluations: int, guided: bool) -> int:
    """Evaluations a sample that all derivatives take, of a solver with one evaluation a step."""
    found = off = 0  # numbers whose copies are off the sampler's point
    for number in range(evaluations):
        level = freedom.grid if number else freedom.start
        off += level
        if number:
            row = number - 1
            off += min(freedom.taps, row) + min(freedom.guidance_taps, row + 1) * guided + freedom.model_sigmas
        found += 1 + (level or freedom.model_sigmas) + min(off, freedom.derivatives)
    return found


def within_share(samples: list[int], count: int, held: int, freedom: Freedom, evaluations: int, guided: bool) -> list[int]:
    """Those of the fitted samples that a further student takes: as many as its share of evaluations allows, of ``count``
    samples in all of which ``held`` judge."""
    share = _FURTHER_STUDENT * evaluations * count - _runs(FEWER_RUNS, evaluations) - _judging(freedom, evaluations, held)
    one = derivative_evaluations(freedom, evaluations, guided) + freedom.steps * evaluations * (1 + 1 / 3)
    return samples[: max(math.floor(share / one), 2)]


def planned(
    freedom: Freedom, samples: int, evaluations: Sequence[int], *, guided: bool, held_out: float = 0.25, continued: bool = False
) -> dict[str, int]:
    """Evaluations by stage of a fit with the usual teacher, for one guidance scale. Roughly: how many steps gain is not known.

    Args:
        freedom, samples, evaluations, held_out: as in ``distill_students``.
        guided: the model gives the guidance channel.
        continued: the fit goes on from another guidance scale.

    Example:
        >>> sum(planned(Freedom(), 16, (4,), guided=True).values()) < 1500
        True
    """
    count = -(-samples // FURTHER_SCALE) if continued else samples
    held = max(round(count * held_out), 1)
    found = {"teacher": TEACHER_STEPS * usual_substeps(max(evaluations), guided) * count, "search": 0, "refine": 0, "check": 0}
    for number, n in enumerate(evaluations):
        fitted = list(range(count - held))
        if number:
            fitted = within_share(fitted, count, held, freedom, n, guided)
        found["search"] += _runs(FEWER_RUNS if number or continued else RUNS, n)
        found["check"] += _judging(freedom, n, held)
        derivatives, tried = derivative_evaluations(freedom, n, guided), _TRIED * freedom.steps * n
        sizes = np.array([len(part) for part in parts(fitted, freedom.rounds)], dtype=float)
        times = np.ones(len(sizes))
        times[:1] = 1 if continued or freedom.sparing else freedom.starts
        refined = (sizes * times).sum() * derivatives + (np.cumsum(sizes) * times).sum() * tried
        found["refine"] += round(refined + freedom.again * len(fitted) * (derivatives + tried))
    return found


def _runs(runs: Sequence[tuple[int, int]], evaluations: int) -> int:
    return sum(many * few for many, few in runs) * evaluations


def _judging(freedom: Freedom, evaluations: int, held: int) -> int:
    return (1 + freedom.rounds + freedom.again) * evaluations * held
