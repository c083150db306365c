"""Undistilled solvers to set out from: which solver on which schedule is good differs by model, guidance and number of steps.

A hundred pairs are ranked on the teacher's path, which costs nothing; the best of them run for real on a few samples.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from dode.correction import Parameters
from dode.errors import FitError
from dode.fit import ranks
from dode.fit.end_point import Targets, sketch
from dode.fit.model_calls import ModelCalls
from dode.fit.outliers import outlier_limit, robust_mean
from dode.fit.plan import RUNS
from dode.fit.teacher_path import Calls, Recorder, TeacherPath
from dode.methods import build_tableau, get_method, steps_within
from dode.schedules import schedule
from dode.tableau import Array, Tableau

SOLVERS = ("ipndm", "lms_k_diffusion", "dpmpp_2m", "deis", "gradient_estimation")
Grids = Callable[[int], Sequence[Array]]
PATH_SAMPLES = 8  # whose path is kept
_ORDER = 2  # up to which a solver is taken to set out from: beyond it fits get stuck
_EARLIER_ENDS = (0.0, 0.22, 0.4, 0.5)  # of the range, in log σ, that a schedule may leave out above 0
_JUMPS = (0.17, 0.25)  # of that range, which the first step may take at once


def usual_grids(steps: int, low: float, high: float, flow: bool) -> list[Array]:
    """Schedules to start from. With few steps most do better if they end early, and where the highest level is so high that
    the model sees nothing but noise there, if the next one is far lower."""
    if flow:
        linear = schedule("linear", steps, low, high)
        cosine = schedule("cosine", steps, low, high)
        blend = (linear + cosine) / 2
        return [shift * grid / (1 + (shift - 1) * grid) for grid in (linear, blend, cosine) for shift in (0.5, 1.0, 2.0, 4.0)]

    def level(part: float) -> float:
        return low * (high / low) ** part

    karras = [schedule("karras", steps, level(end), high) for end in _EARLIER_ENDS[:3]]
    exponential = [schedule("exponential", steps, level(end), high) for end in _EARLIER_ENDS[1:]]
    tops = [level(1 - jump) for jump in _JUMPS if steps > 1]
    after = [schedule("exponential", steps - 1, level(end), top) for top in tops for end in _EARLIER_ENDS[1:3]]
    return [*karras, *exponential, *(np.concatenate([[high], grid]) for grid in after)]


def undistilled(budget: int, solvers: Sequence[str], grids: Grids, coordinate: str) -> dict[Tableau, Parameters]:
    """All solvers on all schedules with up to this many evaluations, each table once.

    Raises:
        FitError: none makes a step with so few.
    """
    found: dict[Tableau, Parameters] = {}
    for name in solvers:
        for order in get_method(name).convergence:
            steps = steps_within(name, budget, order)
            for grid in grids(steps) if steps else ():
                base = build_tableau(name, grid, order, coordinate)
                form = "data" if base.consistent else "noise"
                values = np.zeros((len(base.rows), 1))
                found.setdefault(base, Parameters(name, order, form, tuple(grid.tolist()), values, coordinate))
    if not found:
        raise FitError(f"None of {', '.join(solvers)} makes a step within {budget} evaluations.")
    return found


class OnPath:
    """The fit's samples as the teacher's path has them, for what can be found out without asking the model.

    Attributes:
        targets: the path's samples, sketched: the same fit as on the model, where ``path.model`` stands for it.
        model: counts the calls of that stand-in, which cost nothing.
    """

    def __init__(self, targets: Targets, samples: Sequence[int], path: TeacherPath):
        starts: dict[float, Tensor] = {}
        noise = targets.noise[list(samples)]

        def start(which: Tensor, sigma: float) -> Tensor:
            if sigma not in starts:
                starts[sigma] = sketch(targets.start(noise, sigma))
            return starts[sigma][which[:, 0].long()]

        count = len(samples)
        every = torch.arange(count)
        # What a start is made of is the number of the sample.
        self.targets = Targets(every[:, None].double(), start, path.ends, targets.sigma_range, [every], [])
        self.path, self.samples = path, list(samples)
        self.model = self._model()

    def _model(self) -> ModelCalls:
        model = ModelCalls(self.path.model, None, torch.device("cpu"), None, alone=True)
        model.enter("path", 0)
        return model

    def learn(self, batches: Sequence[tuple[Tensor, Calls]]) -> None:
        """Take in real calls beside the path, of batches of the fit's samples with these indices, (B,) each."""
        if batches:
            where = {sample: position for position, sample in enumerate(self.samples)}
            self.path = self.path.learned([(torch.tensor([where[int(i)] for i in few]), calls) for few, calls in batches])
            self.model = self._model()

    def errors(self, tableau: Tableau) -> Array:
        """Mean squared errors that the samples would have with a solver, (N,)."""
        return self.targets.errors(self.model, tableau) / self.targets.ends.shape[1]

    def ranked(self, tables: Iterable[Tableau]) -> list[Tableau]:
        """Tables by how far from the teacher they would end, the best first."""

        def loss(table: Tableau) -> float:
            errors = self.errors(table)
            return robust_mean(errors, outlier_limit(errors))

        return sorted(tables, key=loss)


def best_starts(
    model: ModelCalls,
    targets: Targets,
    path: OnPath,
    pool: dict[Tableau, Parameters],
    runs: Sequence[tuple[int, int]] = RUNS,
) -> list[Parameters]:
    """Undistilled solvers, the best on a few fitted samples first; none where with all of them the model broke down."""
    best: list[Tableau] = []
    for count, size in runs:
        few, errors, seen = targets.only(targets.fitted[:size]), dict[Tableau, float](), list[tuple[Tensor, Calls]]()
        kept = best[: (count + 1) // 2]
        left = [*kept, *_first([table for table in path.ranked(pool) if table not in kept], pool, count - len(kept))]
        left = ranks.agreed(left)
        model.expect(len(few.order) * sum(table.evaluations for table in left))
        for table in left:
            recorder = Recorder(sketch)
            errors[table] = float(few.errors(model.watched(recorder.watch), table).mean())
            if np.isfinite(errors[table]):
                recorder.gather()
                seen += recorder.batches
        best = sorted((table for table in left if np.isfinite(errors[table])), key=errors.__getitem__)
        path.learn(seen)  # what was seen beside the path corrects the next ranking of all
    return [pool[table] for table in best]


def _first(ranked: list[Tableau], pool: dict[Tableau, Parameters], count: int) -> list[Tableau]:
    """The first of a ranking, a quarter of them of each order up to two if there are as many: fits set out from those, and
    under strong guidance, which the path tells least of, the first order is best."""
    chosen = [
        table for order in range(1, _ORDER + 1) for table in [t for t in ranked if pool[t].order == order][: (count + 3) // 4]
    ]
    rest = [table for table in ranked if table not in chosen]
    return sorted([*chosen, *rest][:count], key=ranked.index)


def setting_out(starts: Sequence[Parameters]) -> list[Parameters]:
    """In which order a fit tries them: solvers of low order first. Which is best does not show in its own error, but of high
    orders, which extrapolate far, fits come to a halt earlier."""
    return sorted(starts, key=lambda start: start.order > _ORDER)


def path_samples(targets: Targets) -> list[int]:
    """The fitted samples whose path is kept."""
    return targets.fitted[:PATH_SAMPLES]
