"""What is left at the end of a distilled sampler, and how much of it further weights in its last row could take away."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.models import BenchModel
from benchmarks.quality_cells import Plan, fit, score, trial
from benchmarks.stock_search import run_table
from dode.correction import Parameters
from dode.least_squares import solve_normal_equations
from dode.methods import build_tableau
from dode.sampling import Guided, sample

SEED, RIDGE = 3000, 1e-4

Design = Callable[[Tensor], Tensor]


def _pixels(maps: Tensor) -> Tensor:
    """Maps (B, K, C, H, W) as columns: (C, B·H·W, columns), one design for each channel that is to be corrected."""
    return maps.transpose(1, 2).flatten(1, 2).movedim(1, -1).flatten(0, 2).expand(maps.shape[2], -1, -1)


def _by_channel(maps: Tensor) -> Tensor:
    return maps.permute(2, 0, 3, 4, 1).flatten(1, 3)


def _shared(maps: Tensor) -> Tensor:
    """The same weights for all channels: one design, (1, C·B·H·W, K)."""
    return _by_channel(maps).flatten(0, 1)[None]


def _neighbours(maps: Tensor) -> Tensor:
    b, k, c, h, w = maps.shape
    around = F.unfold(F.pad(maps.flatten(1, 2), (1, 1, 1, 1), mode="replicate"), 3)
    return _pixels(around.view(b, k * c * 9, 1, h, w)).expand(c, -1, -1)


def _curved(maps: Tensor) -> Tensor:
    """The maps, their squares, and each times its own size in this sample."""
    size = maps.square().mean((2, 3, 4), keepdim=True).sqrt()
    return _pixels(torch.cat([maps, maps.square(), maps * size], dim=1))


DESIGNS: dict[str, Design] = {
    "a weight for each output": _shared,
    "and each channel": _by_channel,
    "channels mixed": _pixels,
    "channels mixed, of 3x3 pixels": _neighbours,
    "channels mixed, squares, and by the sample's size": _curved,
}


def _corrected(design: Design, known: tuple[Tensor, Tensor], tested: tuple[Tensor, Tensor]) -> Tensor:
    """The correction that is fitted to (maps, residual) of known samples, for tested ones."""
    apart = design is not _shared

    def columns(maps: Tensor) -> Tensor:
        found = design(maps).double()
        return torch.cat([found, torch.ones_like(found[..., :1])], dim=-1)

    def wanted(residual: Tensor) -> Tensor:
        flat = residual.movedim(1, 0).flatten(1).double()
        return flat if apart else flat.flatten()[None]

    matrix, target = columns(known[0]), wanted(known[1])
    there, found = columns(tested[0]), []
    for number in range(len(matrix)):
        gram, moment = matrix[number].mT @ matrix[number], matrix[number].mT @ target[number]
        found.append(there[number] @ torch.from_numpy(solve_normal_equations(gram.numpy(), moment.numpy(), RIDGE)))
    b, c, *size = tested[1].shape
    return torch.stack(found).view(c, b, *size).movedim(0, 1).to(tested[1])


def _seen(
    model: BenchModel, guidance: float, parameters: Parameters, noise: Tensor, labels: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """What a sampler saw on its way, (N, K, C, H, W): the start and all outputs; and where it ended, (N, C, H, W)."""
    tableau, inner, maps, ends = parameters.tableau(), model.fit_denoiser(guidance), [], []
    extra = model.extra_args(labels)
    for batch in torch.arange(len(noise)).split(64):
        start = noise[batch] * tableau.sigma
        outputs = [start / tableau.sigma]

        def denoise(x: Tensor, sigma: Tensor, labels: Tensor, outputs: list[Tensor] = outputs) -> Any:
            found = inner(x, sigma, labels)
            outputs += found if isinstance(found, Guided) else [found]
            return found

        with torch.no_grad():
            ends.append(sample(denoise, start, tableau, extra_args=extra(batch)))
        maps.append(torch.stack(outputs, dim=1).cpu())
    return torch.cat(maps), torch.cat(ends).cpu()


def residual(model: BenchModel, guidance: float, plan: Plan, mode: str) -> Iterator[dict[str, Any]]:
    """What further weights of the last row could take away: a linear regression of the error at the end on everything that the
    sampler saw, fitted on fresh samples and judged on the test samples."""
    on = trial(model, guidance, plan)
    prompts, tests = plan.fit_prompts or model.fit_prompts, plan.test_prompts or model.test_prompts
    noise = model.noise(plan.test_samples, SEED)
    exact = build_tableau("ipndm", model.reference_grid(model.reference_steps), 4)
    target = run_table(model, guidance, exact, noise, model.extra_args(prompts)).cpu()
    for fit_mode in plan.modes:
        for evaluations, result in zip(plan.evaluations, fit(model, guidance, plan, fit_mode), strict=True):
            known = _seen(model, guidance, result.parameters, noise, prompts)
            tested = _seen(model, guidance, result.parameters, on.noise, tests)
            reference = on.reference.cpu()
            before = score(tested[1], reference)["error"]
            for name, design in DESIGNS.items():
                change = _corrected(design, (known[0], target - known[1]), (tested[0], reference - tested[1]))
                after = score(tested[1] + change, reference)["error"]
                row = {"model": model.name, "guidance": guidance, "NFE": evaluations, "mode": fit_mode, "further weights": name}
                yield {**row, "error": before, "with them": after, "ratio": after / before}
