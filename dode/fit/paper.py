"""The paper's solvers as published: which of those here each is, what it differences and what it is fitted to.

Kim, Tang and Yu 2024, and their code: for noise prediction DDIM, iPNDM, DPM-Solver and DEIS, for data prediction DDIM and EDM.
In noise prediction the first step is corrected too, by ε - x. EDM's teacher is DDIM with as many times the evaluations, and
what its steps predict is compared half way. Of the guard, which the paper does not have, see ``distill``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dode.errors import FitError
from dode.fit.distill import Choice, distill_best, planned_evaluations, teacher_of
from dode.fit.problem import Problem
from dode.methods import get_method
from dode.report import Distillation
from dode.tableau import Directions, Prediction
from dode.teacher import Teacher

SAMPLES = 32  # that a fit takes by itself, a third of the paper's batch
SUBSTEPS = 10  # teacher steps for each of the student's: the paper's scale S


@dataclass(frozen=True)
class Family:
    """One of the paper's solvers.

    Attributes:
        name: the paper's, for its D- version. ``get_method`` knows it.
        method, order: the solver here.
        predictions: what its outputs are in the paper.
        per: whether a step or an evaluation has a λ of its own.
        half_way: the teacher has as many steps for each evaluation as else for each step, and what a step predicts is fitted to
            where it stands half way.
        also: other names.
    """

    name: str
    method: str
    order: int
    predictions: tuple[Prediction, ...]
    per: Literal["step", "evaluation"]
    half_way: bool = False
    also: tuple[str, ...] = ()

    @property
    def teacher(self) -> str:
        """The paper's teacher."""
        return "euler" if self.half_way else get_method(self.method).teacher

    def directions(self, prediction: str = "") -> Directions:
        """What the paper differences on a model of this prediction kind ("eps", "v", "edm", "flow" or another word)."""
        if len(self.predictions) > 1:
            return "noise" if prediction == "eps" else "data"
        return get_method(self.method).directions


FAMILIES = (
    Family("D-DDIM", "euler", 1, ("data", "noise"), "step"),
    Family("D-iPNDM", "ipndm", 4, ("noise",), "step", also=("D-PNDM", "D-PLMS")),
    Family("D-DPM-Solver-2", "dpm_2_singlestep", 2, ("noise",), "evaluation"),
    Family("D-DPM-Solver-3", "dpm_3_singlestep", 3, ("noise",), "evaluation"),
    Family("D-DEIS", "deis", 3, ("noise",), "step"),
    Family("D-EDM", "heun", 2, ("data",), "evaluation", half_way=True),
)


def family_of(method: str) -> Family | None:
    """The paper's solver that a method is, by any of its names; None if it is none."""
    name = get_method(method).name
    return next((family for family in FAMILIES if family.method == name), None)


def published(
    method: str,
    *,
    order: int | None = None,
    directions: Directions | None = None,
    prediction: str = "",
    coordinate: str = "log_sigma",
    teacher: str | None = None,
    substeps: int = SUBSTEPS,
) -> Choice:
    """What the paper fits to what with a solver; of one that it does not have, what is alike.

    Args:
        method, order, coordinate: as in ``build_tableau``.
        directions: as in ``distill``; by default the paper's, for DDIM those of the model's prediction.
        prediction: the model's: "eps", "v", "edm", "flow" or another word.
        teacher: another solver than the paper's. For EDM this also means fitting what a step predicts to where it ends, which
            with "heun" is the more exact choice.
        substeps: teacher steps for each of the student's; for EDM as published, for each of its evaluations.

    Example:
        >>> published("D-EDM").teacher
        Teacher(method='euler', order=None, substeps=20, coordinate='log_sigma')
        >>> published("ddim", prediction="eps").directions
        'noise'
    """
    entry, family = get_method(method), family_of(method)
    kind = directions or (family.directions(prediction) if family else entry.directions)
    half_way = family is not None and family.half_way and teacher is None
    named = teacher or (family.teacher if family else None)
    return Choice(
        entry.name,
        order,
        kind,
        first_step=family is not None and kind != "data",
        teacher=teacher_of(entry.name, order, coordinate, named, substeps * (2 if half_way else 1)),
        half_way=half_way,
    )


def choices(method: str | None, *, order: int | None = None, **settings: Any) -> list[Choice]:
    """What a solver's name stands for; where there is none, all of the paper's with one evaluation a step.

    Args:
        method, order: as in ``build_tableau``.
        settings: the others of ``published``.

    Raises:
        FitError: an order without a solver. MethodError: unknown solver.
    """
    if method is not None:
        return [published(method, order=order, **settings)]
    if order is not None:
        raise FitError(f"Order {order} belongs to a solver, and best of several is none. Name one, or leave the order open.")
    return [published(family.method, **settings) for family in FAMILIES if not family.half_way]


def distill_published(
    problem: Problem, sigmas: Any, found: Sequence[Choice], *, coordinate: str = "log_sigma", **settings: Any
) -> Distillation:
    """Fit the paper's D- version of a solver, or of the best of several.

    Args:
        found: what ``choices`` gives. Several are compared as fitted to one teacher, iPNDM's, unless theirs is the same anyway.
        problem, sigmas, coordinate, settings: as in ``dode.fit.distill.distill_best``.

    Example:
        >>> import torch
        >>> from dode.demo.mixture import ring
        >>> problem = Problem(ring(), 10 * torch.randn(16, 4, dtype=torch.float64))
        >>> best = distill_published(problem, [10.0, 3.0, 1.0, 0.3, 0.0], choices(None, prediction="eps"))
        >>> best.report.error_distilled <= best.report.error_base
        True
    """
    return distill_best(problem, sigmas, found, judge=_judge(found, coordinate), coordinate=coordinate, **settings)


def planned(sigmas: Any, found: Sequence[Choice], *, samples: int, coordinate: str, **settings: Any) -> dict[str, int]:
    """Evaluations of the model by stage that ``distill_published`` will need, the last stage at least.

    Of several choices this is for the case that the best has the teacher they are compared by.
    """
    judge = _judge(found, coordinate)
    if len(found) == 1:
        return _planned(sigmas, found[0], samples, coordinate, settings)
    search = sum(_planned(sigmas, choice, samples, coordinate, settings)["student"] for choice in found)
    best = next((choice for choice in found if choice.teacher == judge), found[0])
    return {"search": search, **_planned(sigmas, best, samples, coordinate, settings)}


def _planned(sigmas: Any, choice: Choice, samples: int, coordinate: str, settings: dict[str, Any]) -> dict[str, int]:
    named = {"method": choice.method, "order": choice.order, "teacher": choice.teacher, "coordinate": coordinate}
    return planned_evaluations(sigmas, samples=samples, **named, **settings)


def _judge(found: Sequence[Choice], coordinate: str) -> Teacher:
    """The teacher that choices are compared by: their own if they have the same one, else the most exact of the paper's."""
    teachers = {choice.teacher for choice in found}
    first = found[0].teacher
    return first if first and len(teachers) == 1 else Teacher("ipndm", None, first.substeps if first else SUBSTEPS, coordinate)
