"""What is left at the end of a distilled sampler, and how much of it further weights in its last row could take away."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.models.bench_models import BenchModel
from benchmarks.quality.cells import Plan, Trial, fit, trial
from dode.correction import Parameters
from dode.fit.held_out import rms
from dode.fit.least_squares import solve_normal_equations
from dode.sampling import Guided, sample

SEED, RIDGE = 3000, 1e-4

Design = Callable[[Tensor], Tensor]


def _pixels(maps: Tensor) -> Tensor:
    """Maps (B, K, C, H, W) as columns for least squares, (C, B·H·W, columns): one matrix for each channel to correct."""
    return maps.transpose(1, 2).flatten(1, 2).movedim(1, -1).flatten(0, 2).expand(maps.shape[2], -1, -1)


def _by_channel(maps: Tensor) -> Tensor:
    return maps.permute(2, 0, 3, 4, 1).flatten(1, 3)


def _shared(maps: Tensor) -> Tensor:
    """The same weights for all channels: one matrix, (1, C·B·H·W, K)."""
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


def correction(design: Design, known: tuple[Tensor, Tensor], maps: Tensor) -> Tensor:
    """The correction for samples with these maps, as fitted to (maps, what is missed) of known ones."""

    def columns(maps: Tensor) -> Tensor:
        found = design(maps).double()
        return torch.cat([found, torch.ones_like(found[..., :1])], dim=-1)

    matrix, there, found = columns(known[0]), columns(maps), []
    target = known[1].movedim(1, 0).double().reshape(len(matrix), -1)
    for known_columns, wanted, its in zip(matrix, target, there, strict=True):
        gram, moment = known_columns.mT @ known_columns, known_columns.mT @ wanted
        found.append(its @ torch.from_numpy(solve_normal_equations(gram.numpy(), moment.numpy(), RIDGE)))
    b, _, c, *size = maps.shape
    return torch.cat(found).view(c, b, *size).movedim(0, 1)


def _seen(on: Trial, parameters: Parameters) -> tuple[Tensor, Tensor]:
    """What a sampler saw on its way, (N, K, C, H, W): the start and all outputs; and what it missed, (N, C, H, W)."""
    tableau, inner, maps, missed = parameters.tableau(), on.model.fit_denoiser(on.guidance), [], []
    for batch in torch.arange(len(on.noise)).split(64):
        outputs = [on.noise[batch]]

        def denoise(x: Tensor, sigma: Tensor, labels: Tensor, outputs: list[Tensor] = outputs) -> Any:
            found = inner(x, sigma, labels)
            outputs += found if isinstance(found, Guided) else [found]
            return found

        with torch.no_grad():
            end = sample(denoise, on.noise[batch] * tableau.sigma, tableau, extra_args=on.extra_args(batch))
        maps.append(torch.stack(outputs, dim=1).cpu())
        missed.append((on.reference[batch] - end).cpu())
    return torch.cat(maps), torch.cat(missed)


def residual(model: BenchModel, guidance: float, plan: Plan, mode: str) -> Iterator[dict[str, Any]]:
    """What further weights of the last row could take away: a linear regression of the error at the end on everything that the
    sampler saw, fitted on fresh samples and judged on the test samples."""
    fresh = replace(plan, test_seed=SEED, test_prompts=plan.prompts(model)[0])
    known, tested = trial(model, guidance, fresh), trial(model, guidance, plan)
    for fit_mode in plan.modes:
        for evaluations, result in zip(plan.evaluations, fit(model, guidance, plan, fit_mode), strict=True):
            seen, there = _seen(known, result.parameters), _seen(tested, result.parameters)
            before = rms(there[1], 0 * there[1])
            for name, design in DESIGNS.items():
                after = rms(there[1], correction(design, seen, there[0]))
                row = {"model": model.name, "guidance": guidance, "NFE": evaluations, "mode": fit_mode, "further weights": name}
                yield {**row, "error": before, "with them": after, "ratio": after / before}
