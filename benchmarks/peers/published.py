"""Published fits of few-step samplers, written from their papers: GITS, DC-Solver and LD3.

BNS is in ``benchmarks.peers.bespoke``. Each takes a model with the samples of its fit (``Spending``) and gives a table that
runs like any other, and what it spent.

They share the teacher of our own fit, iPNDM of order 4, where the papers have others, mostly longer ones; so what differs is
what is fitted and how. A choice that a paper leaves to its user is made by the error at the end, on the fit's own samples, and
counted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers.differentiable import SoftTableau, SoftWalk, Spending, softened, solver_on
from dode.methods import build_tableau
from dode.sampling import Guided, drive, sample
from dode.schedules import usual_schedule
from dode.tableau import Array, Row, Tableau
from dode.teacher import Teacher, trajectory

CHOOSING = 16  # samples on which a choice is made, at most
_PATIENCE = 5  # checks of LD3 without a better grid


@dataclass(frozen=True)
class Fitted:
    """What a fit found and what it spent: guided evaluations, and how many of them also went backward."""

    tableau: Tableau
    forward: int
    backward: int

    @property
    def evaluations(self) -> int:
        """In forward evaluations: one with its way back takes the time of three."""
        return self.forward + 2 * self.backward


def fitted(on: Spending, table: SoftTableau | Tableau) -> Fitted:
    return Fitted(table if isinstance(table, Tableau) else table.hardened(), on.forward, on.backward)


def mean_squares(found: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared distance of each sample, (B,)."""
    return (found - wanted).square().flatten(1).mean(1)


def every(on: Spending) -> Tensor:
    return torch.arange(len(on.noise))


def path(on: Spending, grid: Array, substeps: int, samples: Tensor | None = None, batch: int = 64) -> Tensor:
    """The teacher at each level of a grid after the first, (levels - 1, N, …), with ``substeps`` steps between two of them."""
    teacher = Teacher("ipndm", 4, substeps, on.model.coordinate).tableau(grid, on.model.sigma_min)
    parts = (every(on) if samples is None else samples).split(batch)
    with torch.no_grad():
        found = [trajectory(on.on(part), on.noise[part] * teacher.sigma, teacher, substeps) for part in parts]
    return torch.cat(found, dim=1)


def teacher_ends(on: Spending, steps: int) -> Tensor:
    """Where a teacher of about so many steps ends, (N, …), on the grid of our own fit."""
    coarse = usual_schedule(on.model.coordinate, 10, *on.model.sigma_range)
    return path(on, coarse, max(1, round(steps / 10)))[-1]


def best_of(on: Spending, tables: Sequence[Tableau], ends: Tensor, samples: Tensor, most: int = CHOOSING) -> int:
    """Which table ends nearest to the teacher on the first few of these samples."""
    few = samples[:most]
    if len(tables) == 1:
        return 0
    errors = [float(mean_squares(on.ends_of(table, few), ends[few]).mean()) for table in tables]
    return int(np.argmin(np.nan_to_num(errors, nan=np.inf)))


# GITS


def step_costs(grid: Array, points: Tensor, slopes: Tensor, metric: str = "dev") -> Array:
    """What one Euler step from each of the teacher's nodes to each later one costs, (nodes, nodes), +∞ elsewhere.

    Chen et al. 2024; ``get_dp_list`` of the official code. "l2": the distance to the teacher there. "dev": how much farther
    than the teacher the step ends from the straight line between the first and the last node, the default of the official
    code; it may be negative.

    Args:
        grid: σ of the nodes, descending. points: the teacher there, (nodes, N, …). slopes: its dx/dσ there, (nodes - 1, N, …).
    """
    count = len(grid)
    costs, flat, slopes = np.full((count, count), np.inf), points.flatten(2).double(), slopes.flatten(2).double()
    direction = flat[0] - flat[-1]
    direction = direction / direction.norm(dim=-1, keepdim=True)

    def deviation(x: Tensor) -> Tensor:
        offset = x - flat[-1]
        return (offset - (offset * direction).sum(-1, keepdim=True) * direction).norm(dim=-1)

    own = deviation(flat)
    for i in range(count - 1):
        steps = torch.as_tensor(grid[i + 1 :] - grid[i]).view(-1, 1, 1)
        reached = flat[i] + steps.to(flat.device) * slopes[i]
        each = (reached - flat[i + 1 :]).norm(dim=-1) if metric == "l2" else deviation(reached) - own[i + 1 :]
        costs[i, i + 1 :] = each.mean(1).cpu().numpy()
    return costs


def cheapest_path(costs: Array, steps: int, discount: float = 1.0) -> list[int]:
    """Nodes (steps + 1) from the first to the last with the least Σ discount^k · cost of step k: dynamic programming.

    Chen et al. 2024; ``dp`` of the official code. A discount above 1 makes late steps dear and therefore short.
    """
    count = len(costs)
    best, following = np.full((steps + 1, count), np.inf), np.zeros((steps + 1, count), dtype=int)
    best[0, -1] = 0.0
    for left in range(1, steps + 1):
        totals = costs + discount * best[left - 1][None, :]
        following[left], best[left] = totals.argmin(axis=1), totals.min(axis=1)
    nodes = [0]
    for left in range(steps, 0, -1):
        nodes.append(int(following[left, nodes[-1]]))
    return nodes


def gits(
    on: Spending,
    evaluations: int,
    teacher_steps: int = 60,
    solvers: Sequence[tuple[str, int]] = (("ipndm", 2), ("ipndm", 3), ("ipndm", 4)),
    discounts: Sequence[float] = (1.1, 1.15, 1.2, 1.3),
    metrics: Sequence[str] = ("dev",),
) -> Fitted:
    """GITS (Chen et al. 2024, "On the Trajectory Regularity of ODE-based Diffusion Sampling"): a time grid by dynamic
    programming over the costs of Euler steps along the teacher's path, used with a published solver.

    The paper takes 256 samples, 60 steps of iPNDM, "dev", discount 1.15 and iPNDM. Here the model goes to σ = 0 at the end, and
    so does the path; order and discount are chosen on a few samples.
    """
    grid = usual_schedule(on.model.coordinate, teacher_steps, *on.model.sigma_range)
    teacher = build_tableau("ipndm", grid, 4, on.model.coordinate)
    costs: dict[str, Array] = {}
    ends = []
    for part in every(on).split(64):
        points, slopes = _recorded(on, teacher, part)
        ends.append(points[-1])
        for metric in metrics:
            costs[metric] = costs.get(metric, 0.0) + len(part) / len(on.noise) * step_costs(grid, points, slopes, metric)
    grids = {tuple(cheapest_path(c, evaluations, discount)) for c in costs.values() for discount in discounts}
    pairs = [(grid[list(nodes)], solver) for nodes in sorted(grids) for solver in solvers]
    tables = list(dict.fromkeys(build_tableau(name, levels, order, on.model.coordinate) for levels, (name, order) in pairs))
    return fitted(on, tables[best_of(on, tables, torch.cat(ends), every(on), 4 * CHOOSING)])


def _recorded(on: Spending, tableau: Tableau, samples: Tensor) -> tuple[Tensor, Tensor]:
    """A solver's points at the nodes of its grid (n + 1, B, …) and dx/dσ at all but the last (n, B, …)."""
    points, slopes, denoiser = [], [], on.on(samples)

    def denoise(y: Tensor, sigma: Tensor) -> Any:
        found = denoiser(y, sigma)
        points.append(y)
        slopes.append((y - (found.denoised if isinstance(found, Guided) else found)) / sigma.view(-1, *[1] * (y.ndim - 1)))
        return found

    with torch.no_grad():
        points.append(sample(denoise, on.noise[samples] * tableau.sigma, tableau))
    return torch.stack(points), torch.stack(slopes)


# DC-Solver


def compensated(base: Tableau, ratios: Tensor) -> SoftTableau:
    """A solver whose newest stored output, from the third step on, is replaced by one that is interpolated to another time.

    Dynamic compensation (Zhao et al. 2024, ECCV; ``dynamic_compensation`` of the official code): Lagrange's polynomial through
    the last three stored outputs, at t' = ratio · t_i + (1 - ratio) · t_{i-1}, here in ln σ. What was replaced stays replaced
    in later steps. A ratio of 1 changes nothing. It is linear in the outputs, so the result is a table too, at the same cost.

    Args:
        base: with one evaluation a step, such as UniPC. ratios: one a step, (steps,); the first two are not used.
    """
    soft, levels = softened(base), torch.tensor(base.evaluation_sigmas, dtype=torch.float64).log()
    stored = list(torch.eye(base.evaluations, dtype=torch.float64))  # each output as the solver has it, by those of the model
    rows, step, made = [], 0, 1
    fresh = True
    for row in soft.rows:
        if fresh and step >= 2:
            at = ratios[step] * levels[step] + (1 - ratios[step]) * levels[step - 1]
            stored[step] = sum(_lagrange(levels[step - 2 : step + 1], at)[k] * stored[step - 2 + k] for k in range(3))  # type: ignore[assignment]
        total = sum(weight * stored[index] for index, weight in row.weights)
        rows.append(Row(row.sigma, tuple(enumerate(total[:made])), row.evaluate, row.commit))  # type: ignore[arg-type, index]
        made += row.evaluate
        fresh, step = row.commit, step + row.commit
    return SoftTableau(soft.sigma, tuple(rows), soft.model_sigmas)


def _lagrange(nodes: Tensor, at: Tensor) -> list[Tensor]:
    others = [[m for m in range(len(nodes)) if m != k] for k in range(len(nodes))]
    return [torch.stack([(at - nodes[m]) / (nodes[k] - nodes[m]) for m in rest]).prod() for k, rest in enumerate(others)]


def dc_solver(
    on: Spending,
    bases: Sequence[Tableau],
    teacher_steps: int = 60,
    iterations: int = 40,
    rate: float = 0.1,
) -> Fitted:
    """DC-Solver (Zhao et al. 2024): one ratio a step, found step by step so that each lands where the teacher is.

    As the official ``find_optim_ratio``: 40 iterations of AdamW at a rate of 0.1 for each ratio, on 10 samples; the teacher
    there is DDIM with 200 or 999 steps. A step that evaluates at its prediction and corrects with that output is
    differentiated through the model. ``bases``: solvers on schedules to choose from, in the paper
    UniPC or one without a corrector, whose steps need no evaluation of the model to be fitted.
    """
    everything = every(on)
    base = bases[0] if len(bases) == 1 else bases[best_of(on, bases, teacher_ends(on, teacher_steps), everything)]
    steps = len(base.sigmas) - 1
    grid = np.array(base.sigmas)
    grid[-1] = 0.0  # UniPC's last level stands for 0
    targets = path(on, grid, max(1, round(teacher_steps / steps)))
    ratios, firsts = torch.ones(steps, dtype=torch.float64), _first_rows(base)
    table = softened(base)
    denoiser = on.on(everything)
    with torch.no_grad():
        walk, _ = on.start(table, everything)
    for step in range(steps):
        ends = firsts[step + 1] if step + 1 < steps else None
        if step >= 2:
            ratio = torch.ones((), dtype=torch.float64, requires_grad=True)
            optimizer = torch.optim.AdamW([ratio], lr=rate)
            for _ in range(iterations):
                changed = compensated(base, torch.cat([ratios[:step], ratio[None], ratios[step + 1 :]]))
                reached = _stepped(walk, changed, firsts[step], ends, denoiser)
                loss = mean_squares(reached.base, targets[step]).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            ratios[step] = ratio.detach()
        with torch.no_grad():
            walk = _stepped(walk, compensated(base, ratios), firsts[step], ends, denoiser)
    return fitted(on, compensated(base, ratios))


def _first_rows(tableau: Tableau) -> list[int]:
    """The number of each step's first row."""
    commits = [row.commit for row in tableau.rows]
    return [0, *(number + 1 for number, commit in enumerate(commits[:-1]) if commit)]


def _stepped(walk: SoftWalk, table: SoftTableau, first: int, last: int | None, denoiser: Callable[..., Any]) -> SoftWalk:
    """The walk after the rows from ``first`` on, up to ``last``."""
    ahead = walk.copy()

    def evaluate(number: int, y: Tensor) -> None:
        told = table.model_sigmas[number]
        ahead.record(y, told.item(), denoiser(y, told.to(y).expand(len(y))))

    for number in drive(ahead, table, evaluate, first=first, forget=False):  # type: ignore[arg-type]
        if number == last:
            break
    return ahead


# LD3


class Discretization:
    """The numbers that LD3 learns: the gaps of a grid of n levels as a softmax, and for each level but the first an offset of
    what the model is told.

    As the official ``discretize_model_wrapper``: gaps add up from the highest level to the lowest, and told levels move by at
    most half of the smallest gap. Gaps are those of ln σ, with flow matching those of σ, its time. As the samplers here go on
    to σ = 0, the gap after the last level ends at the model's lowest one.
    """

    def __init__(self, levels: Array, lowest: float, flow: bool):
        self.flow = flow
        ends = np.append(levels, lowest)
        gaps = -np.diff(ends if flow else np.log(ends))
        gaps = np.maximum(gaps, 1e-3 * gaps.sum())
        self.first, self.span = float(levels[0] if flow else np.log(levels[0])), float(gaps.sum())
        self.gaps = torch.tensor(np.log(gaps / gaps.mean()), requires_grad=True)
        self.offsets = torch.zeros(len(levels), dtype=torch.float64, requires_grad=True)

    def levels(self) -> tuple[Tensor, Tensor]:
        """The grid (n,) and what the model is told on it, (n,)."""
        gaps = self.gaps.softmax(0) * self.span
        times = self.first - torch.cat([gaps.new_zeros(1), gaps[:-1].cumsum(0)])
        most = 0.5 * float(gaps.detach().min())
        free = torch.ones_like(times)
        free[0] = 0.0
        told = times + free * self.offsets.clamp(-most, most)
        return (times, told) if self.flow else (times.exp(), told.exp())

    def state(self) -> tuple[Tensor, Tensor]:
        return self.gaps.detach().clone(), self.offsets.detach().clone()

    def restore(self, state: tuple[Tensor, Tensor]) -> None:
        self.gaps.data, self.offsets.data = state[0].clone(), state[1].clone()


def ld3(
    on: Spending,
    bases: Sequence[tuple[str, int, Array]],
    teacher_steps: int = 60,
    rounds: tuple[int, int] = (2, 5),
    batch: int = 2,
    rates: tuple[float, float, float] = (0.005, 0.1, 3.0),
    ball: float = 0.001,
    checks: int = 5,
    seed: int = 0,
) -> Fitted:
    """LD3 (Tong et al. 2025, "Learning to Discretize Denoising Diffusion ODEs"): the grid of a fixed solver, learned by
    gradients through all of its steps, so that it ends where the teacher ends.

    As in the official code: half of the samples train and half judge; ``rounds[0]`` rounds move the grid alone, the rest also
    what the model is told; RMSprop with momentum 0.9 for the grid, SGD for the told levels; after each batch the noise itself
    takes a step, kept if the sample then ends nearer, within a ball (the "soft" matching of the teacher); rounds go on from the
    grid that the judges like best, and five checks without a better one lower the rates. The distance is L2, in units of what
    the start has on the judges. These are looked at ``checks`` times a round instead of after every batch, and their noise does
    not move; both make it cheaper.

    Args:
        bases: solvers to choose from, each a name, an order, and a grid of levels with a final 0.
        rates: of the grid, of told levels (divided by the steps), of the noise (times 4 over the steps).
        ball: its radius, in elements of a sample over the square of the steps; 0 leaves the noise where it is.
    """
    ends, count, model = teacher_ends(on, teacher_steps), len(on.noise), on.model
    training, judges = every(on)[: (count + 1) // 2], every(on)[(count + 1) // 2 :]
    tables = [build_tableau(name, grid, order, model.coordinate) for name, order, grid in bases]
    chosen = best_of(on, tables, ends, judges)
    (method, order, _), levels = bases[chosen], np.array(tables[chosen].evaluation_sigmas)
    steps, grid = len(levels), Discretization(levels, model.sigma_min, model.coordinate == "flow")
    noise, generator = on.noise.clone(), torch.Generator().manual_seed(seed)
    first = torch.optim.RMSprop([grid.gaps], lr=rates[0], momentum=0.9)
    second = torch.optim.SGD([grid.offsets], lr=rates[1] / steps)
    radius, best, worse = ball * noise[0].numel() / steps**2, (np.inf, grid.state()), 0

    def table() -> SoftTableau:
        return solver_on(method, order, model.coordinate, *grid.levels())

    def check() -> None:
        nonlocal best, worse
        error = float(mean_squares(on.ends_of(table().hardened(), judges), ends[judges]).mean())
        best, worse = ((error, grid.state()), 0) if error < best[0] else (best, worse + 1)
        if worse == _PATIENCE:
            worse = 0
            grid.restore(best[1])
            for group in (*first.param_groups, *second.param_groups):
                group["lr"] *= 0.8

    check()
    unit = best[0]
    for number in range(sum(rounds)):
        parts = training[torch.randperm(len(training), generator=generator)].split(batch)
        for turn, part in enumerate(parts, 1):
            moved = noise[part].requires_grad_()
            errors = mean_squares(on.ends(table(), part, moved), ends[part]) / unit
            first.zero_grad()
            second.zero_grad()
            errors.mean().backward()
            torch.nn.utils.clip_grad_norm_([grid.gaps], 1.0)
            torch.nn.utils.clip_grad_norm_([grid.offsets], 1.0)
            first.step()
            if number >= rounds[0]:
                second.step()
            if ball:
                with torch.no_grad():
                    shift = moved - rates[2] * 4 / steps * moved.grad - on.noise[part]  # type: ignore[operator]
                    size = shift.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, *[1] * (shift.ndim - 1))
                    trial = on.noise[part] + shift * (radius / size).clamp(max=1.0)
                    nearer = mean_squares(on.ends(table(), part, trial), ends[part]) / unit < errors
                    noise[part] = torch.where(nearer.view(size.shape), trial, moved)
            if turn == len(parts) or turn % max(1, len(parts) // checks) == 0:
                check()
        grid.restore(best[1])
    return fitted(on, table())
