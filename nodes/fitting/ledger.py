"""Evaluations of the model, done and planned: of one fit after another, and of what comes after them."""

from collections import Counter
from collections.abc import Mapping, Sequence

_GROWING = ("search", "refine", "check", "compare")  # stages that learn only on the way how much they have to do


class Ledger:
    """A plan for each fit and for each thing that comes later, each evaluations by stage. The bar goes once from left to right.

    Attributes:
        spent: evaluations by stage of the parts that are done.
        stages: for each stage that there is or was, how many of its newest part are done, and how many are planned.
    """

    def __init__(self, plans: Sequence[Mapping[str, int]], later: Sequence[Mapping[str, int]] = ()):
        self._parts = [dict(plan) for plan in (*plans, *later)]
        self._later = len(later)
        self._done: dict[str, int] = {}  # of the part at the front
        self.spent: Counter[str] = Counter()
        self.stages = {name: (0, number) for plan in (*plans[:1], *later) for name, number in plan.items()}

    def take(self, stage: str, done: int, total: int) -> bool:
        """Of a stage so many are done, of so many as far as is known; False for what is no stage of the part at the front."""
        plan = self._parts[0] if self._parts else {}
        if stage not in plan:
            return False
        plan[stage] = max(total, plan[stage]) if stage in _GROWING else total
        self._done[stage] = done
        self.stages[stage] = (done, plan[stage])
        return True

    def finish(self) -> None:
        """The part at the front is done, perhaps with fewer than planned, or with none."""
        self.spent.update(self._done)
        self._done = {}
        del self._parts[:1]

    def drop_fits(self) -> None:
        """Of the fits only the one at the front will be done."""
        del self._parts[1 : len(self._parts) - self._later]

    @property
    def done(self) -> int:
        """In all."""
        return self.spent.total() + sum(self._done.values())

    @property
    def total(self) -> int:
        """In all, as far as is known."""
        return self.spent.total() + sum(number for plan in self._parts for number in plan.values())
