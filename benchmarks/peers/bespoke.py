"""All numbers of a sampler by gradients through the model: bespoke solvers, a published peer, and with many samples the limit.

Shaul et al. 2024 ("Bespoke Non-Stationary Solvers", BNS) learn for every step the weights of all outputs so far and the time
grid, by Adam on the error at the end. Frankel et al. 2025 ("S4S") do the same with the weights of a multistep method. Here the
table is the one that our fit moves: weights that sum as consistency wants, the grid, the noise levels that the model is told,
and under guidance the weights of G = D_cond - D_uncond.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers.differentiable import SoftTableau, Spending, dense_weights
from benchmarks.peers.published import CHOOSING, Fitted, every, fitted, mean_squares, teacher_ends
from dode.correction import MAX_TOLD_RATIO
from dode.tableau import Array, Row, Tableau

_NUDGE = 0.01  # of the finite differences that the preconditioner is made of
_FARTHEST = 0.3  # what one unit of a preconditioned number changes at most


class AllNumbers:
    """The numbers of a table with one row an evaluation, as offsets from it: one vector θ, (P,).

    In this order: for each row the λ of every difference of successive outputs (in units of the row's increment), for each row
    the γ of every guidance difference (likewise; none without guidance), ln σ of each evaluation, and of what the model is told
    there the distance from it in ln σ. θ = 0 is the table itself.
    """

    def __init__(self, start: Tableau, guided: bool, sigma_range: tuple[float, float]):
        data = start.in_terms_of("data")
        count = data.evaluations
        if len(data.rows) != count or data.rows[-1].sigma:
            raise ValueError("AllNumbers needs a multistep solver that ends at 0: one row for each evaluation.")
        self.count, self.guided = count, guided
        self.low, self.high = math.log(sigma_range[0]), math.log(sigma_range[1])
        levels = np.array(data.evaluation_sigmas)
        increments = 1 - np.append(levels[1:], 0.0) / levels
        self.levels = torch.from_numpy(np.log(levels))
        self.shares = torch.from_numpy(dense_weights(data) / increments[:, None])
        directions = np.zeros((count, count))
        for number, row in enumerate(data.rows):
            for index, weight in row.guidance_weights:
                directions[number, index] = weight / increments[number]
        self.directions = torch.from_numpy(directions)
        self.told = torch.from_numpy(np.log(np.array(data.model_sigmas or levels) / levels))
        taps = [(row, k) for row in range(count) for k in range(row)]
        differences = np.zeros((count, count, len(taps)))
        for column, (row, k) in enumerate(taps):
            differences[row, row - k, column], differences[row, row - k - 1, column] = 1, -1
        self.differences = torch.from_numpy(differences)
        self.rows, self.columns = np.tril_indices(count)
        self.sizes = (len(taps), len(self.rows) * guided, count, count)

    @property
    def size(self) -> int:
        return sum(self.sizes)

    def _logs(self, theta: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        taps, guidance, levels, told = theta.split(self.sizes)
        return taps, guidance, self.levels + levels, self.told + told

    def table(self, theta: Tensor) -> SoftTableau:
        """The table at θ. Noise levels beyond the model's range count as its ends."""
        taps, guidance, logs, told = self._logs(theta)
        logs = logs.clamp(self.low, self.high)
        levels = logs.exp()
        reached = torch.cat([levels[1:], levels.new_zeros(1)])
        increments = (1 - reached / levels)[:, None]
        weights = increments * (self.shares + self.differences @ taps)
        directions = self.directions
        if self.guided:
            directions = directions.index_put((torch.from_numpy(self.rows), torch.from_numpy(self.columns)), guidance, True)
        directions = increments * directions

        def row(i: int) -> Row:
            used = range(i + 1)
            more = tuple((j, directions[i, j]) for j in used) if self.guided else ()
            return Row(reached[i], tuple((j, weights[i, j]) for j in used), i + 1 < self.count, True, more)  # type: ignore[arg-type]

        limit = math.log(MAX_TOLD_RATIO)
        heard = (logs + told.clamp(-limit, limit)).clamp(self.low, self.high)
        return SoftTableau(levels[0], tuple(map(row, range(self.count))), heard.exp())

    def inside(self, theta: Tensor) -> Tensor:
        """The nearest θ whose noise levels, true and told, lie in the model's range."""
        taps, guidance, logs, told = self._logs(theta)
        logs = logs.clamp(self.low, self.high)
        told = (logs + told).clamp(self.low, self.high) - logs
        return torch.cat([taps, guidance, logs - self.levels, told - self.told])


def preconditioner(on: Spending, numbers: AllNumbers, samples: Tensor, ends: Tensor) -> Tensor:
    """M (P, P) such that at θ = M z all directions of z are alike: the Gauss-Newton matrix H of these samples, by differences.

    M = √e · (H + e/r² · 1)^(-1/2), with e the mean squared error; one unit of z moves θ by r at most.
    """
    with torch.no_grad():
        base = on.ends(numbers.table(torch.zeros(numbers.size, dtype=torch.float64)), samples)
        slopes = []
        for p in range(numbers.size):
            nudge = torch.zeros(numbers.size, dtype=torch.float64)
            nudge[p] = _NUDGE if p < sum(numbers.sizes[:2]) else -_NUDGE
            theta = numbers.inside(nudge)
            moved = float(theta[p])
            slopes.append(torch.zeros_like(base) if moved == 0 else (on.ends(numbers.table(theta), samples) - base) / moved)
        columns = torch.stack([slope.flatten().double() for slope in slopes])
        error = float(mean_squares(base, ends[samples]).mean())
        values, vectors = torch.linalg.eigh(columns @ columns.T / base.numel())
        scale = (error / (values.clamp(min=0) + error / _FARTHEST**2)).sqrt()
    return vectors * scale @ vectors.T


def _loss(errors: Tensor, kind: str) -> Tensor:
    """Mean of what samples' mean squared errors (B,) count for. "log": BNS's. "huber": linear in the RMS beyond twice the
    median. "square": the plain mean."""
    if kind == "log":
        return errors.log().mean()
    limit = 4 * errors.detach().median() if kind == "huber" else errors.new_tensor(torch.inf)
    root = errors.clamp(min=1e-30).sqrt() * limit.sqrt()
    return torch.where(errors > limit, 2 * root - limit, errors).mean()


def bespoke(
    on: Spending,
    starts: Sequence[Tableau],
    teacher_steps: int = 60,
    steps: int = 300,
    batch: int = 32,
    rate: float = 0.01,
    loss: str = "log",
    preconditioned: bool = False,
    first_steps: int = 0,
    ends: Tensor | None = None,
    seed: int = 0,
) -> Fitted:
    """All numbers of a table by minibatches of Adam, with the gradient through the model, to where the teacher ends.

    BNS and S4S take hundreds of samples and BNS thousands of steps, so here both are cut short; the rate falls like a cosine.

    Args:
        starts: multistep solvers to set out from. With more than one, each takes ``first_steps`` steps, and the best of these
            ends, on a few samples, goes on.
        preconditioned: Adam in coordinates in which all directions are alike (``preconditioner``), which needs far fewer steps.
        ends: where the teacher ends, (N, …), if that is known and paid for.
    """
    targets = teacher_ends(on, teacher_steps) if ends is None else ends
    few, generator = every(on)[: 4 * CHOOSING], torch.Generator().manual_seed(seed)
    guided = on.guidance != 1
    batches = on.batches(batch, generator)

    def run(start: Tableau, count: int, rate: float) -> Tableau:
        numbers = AllNumbers(start, guided, on.model.sigma_range)
        matrix = torch.eye(numbers.size, dtype=torch.float64)
        if preconditioned:
            matrix = preconditioner(on, numbers, few[: CHOOSING // 2], targets)
        z = torch.zeros(numbers.size, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.Adam([z], lr=rate, betas=(0.9, 0.99))
        for number in range(count):
            optimizer.param_groups[0]["lr"] = rate * min((number + 1) / 10, 0.5 + 0.5 * math.cos(math.pi * number / count))
            part = next(batches)
            value = _loss(mean_squares(on.ends(numbers.table(matrix @ z), part), targets[part]), loss)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            with torch.no_grad():
                theta = matrix @ z
                inside = numbers.inside(theta)
                if not torch.equal(inside, theta):
                    z.copy_(torch.linalg.solve(matrix, inside))
        with torch.no_grad():
            return numbers.table(numbers.inside(matrix @ z)).hardened()

    candidates = list(starts)
    if first_steps and len(candidates) > 1:
        candidates = [run(start, first_steps, rate) for start in candidates]
    if len(candidates) > 1:
        errors = [float(_loss(mean_squares(on.ends_of(t, few), targets[few]), "log")) for t in candidates]
        candidates = [candidates[int(np.argmin(np.nan_to_num(errors, nan=np.inf)))]]
    return fitted(on, run(candidates[0], steps, rate))


def multistep_starts(tables: Sequence[Tableau], on: Spending, ends: Tensor, count: int) -> list[Tableau]:
    """The best few of these tables, one a grid, by where they end on a few samples."""
    few = every(on)[: CHOOSING // 2]
    errors: Array = np.array([float(mean_squares(on.ends_of(t, few), ends[few]).mean()) for t in tables])
    found: dict[tuple[float, ...], Tableau] = {}
    for number in np.argsort(np.nan_to_num(errors, nan=np.inf)):
        found.setdefault(tables[number].sigmas, tables[number])
    return list(found.values())[:count]
