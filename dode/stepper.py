"""A table taken one model evaluation at a time, for loops that call the model themselves.

stepper = Stepper(parameters.tableau(), x)
while not stepper.done:
    stepper.take(denoiser(stepper.x, stepper.sigma * ones))
x0 = stepper.x
"""

from torch import Tensor

from dode.sampling import Guided, Walk, drive
from dode.tableau import Tableau


class Stepper:
    """The loop of ``dode.sample``, stopped before each evaluation.

    Args:
        tableau: from ``build_tableau`` or ``Parameters.tableau``.
        x: the noisy batch (B, …) at ``tableau.sigma``. Not modified.

    Attributes:
        x: where the model is to be evaluated next; the result, once it is done.
        done: no evaluation is left.

    Example:
        >>> import torch
        >>> from dode.methods import build_tableau
        >>> stepper = Stepper(build_tableau("euler", [2.0, 1.0, 0.0]), torch.full((1, 3), 2.0))
        >>> while not stepper.done:
        ...     stepper.take(torch.zeros(1, 3))
        >>> stepper.x.tolist()
        [[0.0, 0.0, 0.0]]
    """

    def __init__(self, tableau: Tableau, x: Tensor):
        self.tableau, self.x, self.done = tableau, x, False
        self._walk = Walk(x, tableau.sigma, tableau.prediction, tableau.guided)
        self._asked: Tensor | None = x
        self._rows = drive(self._walk, tableau, self._ask)
        next(self._rows)

    def _ask(self, number: int, y: Tensor) -> None:
        self._asked = y

    @property
    def evaluations(self) -> int:
        """How many were taken."""
        return self._walk.evaluations

    @property
    def sigma(self) -> float:
        """The noise level that the model is to be told with ``x``."""
        return (self.tableau.model_sigmas or self.tableau.evaluation_sigmas)[self.evaluations]

    def take(self, output: Tensor | Guided, at: Tensor | None = None) -> None:
        """Go on with the model's denoised output (B, …), up to where the next one is needed.

        Args:
            output: an estimate of x0, or ``Guided`` with both outputs of guidance.
            at: the point that the model was really evaluated at, where the caller has changed ``x``, as inpainting does with
                the kept part of a picture. At the start of a step the step begins there.

        Raises:
            ModelError: an output of another shape, or one without guidance for a table that needs it.
        """
        walk = self._walk
        point = self.x if at is None else at
        if walk.base is self._asked:
            walk.base = point
        walk.record(point, self.tableau.evaluation_sigmas[walk.evaluations], output)
        self._asked = None
        for _ in self._rows:
            if self._asked is not None:
                self.x = self._asked
                return
        self.x, self.done = walk.base, True
