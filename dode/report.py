"""What a fit says of itself, and what it gives back."""

from dataclasses import dataclass

from torch import Tensor

from dode.correction import Parameters
from dode.tableau import Array
from dode.teacher import Teacher


@dataclass(frozen=True)
class Report:
    """What was measured while fitting. Errors are RMS distances to the teacher over all elements of the held-out samples.

    Attributes:
        teacher: the teacher that gave the targets.
        teacher_error: RMS distance, at the end, between the teacher and the same teacher with half the substeps.
        samples, held_out, seed: how many samples there were, how many of them judged, and the seed of the split.
        error_base, error_distilled: at the end of the trajectory, for the base solver and for the distilled one.
        step_errors_base, step_errors_distilled: the same after each step, (steps,).
        kept: how much of each row's correction the guard kept, (rows,): 1 all, 0 none.
        strength: how much of the whole the last check kept: 1 unless the end got worse although single rows got better.
        model_evaluations: evaluations of the model by stage, each counted once per sample.

    Example:
        >>> from dode import Teacher
        >>> report = Report(Teacher("euler"), 0.01, 16, 4, 0, 0.5, 0.2, (0.5,), (0.2,), (1.0,), 1.0, {"teacher": 160})
        >>> report.ratio
        0.4
    """

    teacher: Teacher
    teacher_error: float
    samples: int
    held_out: int
    seed: int
    error_base: float
    error_distilled: float
    step_errors_base: tuple[float, ...]
    step_errors_distilled: tuple[float, ...]
    kept: tuple[float, ...]
    strength: float
    model_evaluations: dict[str, int]

    @property
    def ratio(self) -> float:
        """Error of the distilled solver divided by that of its base; below 1 is better."""
        return self.error_distilled / self.error_base if self.error_base else 1.0


@dataclass(frozen=True, eq=False)
class Judged:
    """The held-out samples of a fit, for comparisons that go on from it.

    Attributes:
        samples: their indices, (H,).
        ends: where the teacher ends for them, (H, …).
        errors: mean squared distance to that of the distilled sampler, (H,).
    """

    samples: tuple[int, ...]
    ends: Tensor
    errors: Array

    def first(self, count: int) -> "Judged":
        """The same for a few of them."""
        return Judged(self.samples[:count], self.ends[:count], self.errors[:count])


@dataclass(frozen=True, eq=False)
class Distillation:
    """The result of a fit.

    Attributes:
        parameters, report: the sampler, and what was measured of it.
        judged: the samples that judged, of a fit of all numbers at once.
        start: the undistilled sampler that it is better than; None is the solver on the noise levels of ``parameters``.

    Example:
        >>> import torch
        >>> from dode import distill
        >>> from dode.demo.mixture import ring
        >>> found = distill(ring(), 10 * torch.randn(16, 4, dtype=torch.float64), [10.0, 3.0, 1.0, 0.3, 0.0])
        >>> found.parameters.method, found.report.held_out
        ('euler', 4)
    """

    parameters: Parameters
    report: Report
    judged: Judged | None = None
    start: Parameters | None = None
