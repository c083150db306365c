"""How many evaluations of the model a fit will take, by stage: for progress bars, and to say beforehand how long it takes."""

from collections.abc import Sequence

from dode.fit.free_parameters import Freedom
from dode.fit.starts import RUNS
from dode.fit.students import FURTHER_SCALE, TEACHER_STEPS, parts, usual_substeps

_TRIES = 1.3  # runs for each Gauss-Newton step that is taken
_STEPS = 0.8  # of the steps that a round may take


def planned(
    freedom: Freedom, samples: int, evaluations: Sequence[int], *, guided: bool, held_out: float = 0.25, continued: bool = False
) -> dict[str, int]:
    """Evaluations by stage of a fit with the usual teacher, for one guidance scale. Roughly: how many steps gain is not known.

    Args:
        freedom, samples, evaluations, held_out: as in ``distill_students``.
        guided: the model gives the guidance channel.
        continued: the fit goes on from another guidance scale.
    """
    count = -(-samples // FURTHER_SCALE) if continued else samples
    held = max(round(count * held_out), 1)
    found = {"teacher": TEACHER_STEPS * usual_substeps(max(evaluations), guided) * count, "search": 0, "refine": 0, "check": 0}
    rounds = parts(list(range(count - held)), freedom.rounds)
    starts = 1 if continued else freedom.starts
    for n in evaluations:
        found["search"] += sum(many * few for many, few in RUNS) * n
        found["check"] += (len(rounds) + freedom.again + 1) * n * held
        derivatives = _derivatives(freedom, n, guided)
        taken = _TRIES * _STEPS * freedom.steps * n
        sizes = [len(part) for part in rounds]
        refined = sum((starts if number == 0 else 1) * size * derivatives for number, size in enumerate(sizes))
        refined += sum((starts if number == 0 else 1) * sum(sizes[: number + 1]) * taken for number in range(len(sizes)))
        found["refine"] += round(refined + freedom.again * sum(sizes) * (derivatives + taken))
    return found


def _derivatives(freedom: Freedom, evaluations: int, guided: bool) -> float:
    """Evaluations a sample that all derivatives take: a number of row i reruns the evaluations after it."""
    found = evaluations
    for row in range(evaluations):
        after = evaluations - 1 - row
        found += after * min(freedom.taps, row)
        found += after * min(freedom.guidance, row + 1) * guided
        found += (after + 1) * (freedom.grid if row else freedom.start)
        found += (after + 1) * freedom.model_sigmas
    return found
