"""How far fitted parameters carry: another guidance scale, other classes, a larger picture, a model trained further."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from benchmarks.models.bench_models import BenchModel, embedded
from benchmarks.quality.cells import Plan, class_of, fit, run_parameters, score, trial
from benchmarks.quality.stock_search import run_table, search
from dode.correction import Parameters
from dode.demo.model import context_of, embedded_model
from dode.demo.network import UNet
from dode.demo.pictures import CLASSES, draw
from dode.demo.train import loss
from dode.files.interpolation import interpolate
from dode.files.parameter_file import Entry

GUIDANCES = (1.0, 2.0, 4.0, 6.0)
TUNING_STEPS, TUNING_BATCH, TUNING_RATE = 150, 32, 3e-4
LARGE = 48


def tuned(steps: int = TUNING_STEPS) -> UNet:
    """A copy of the embedded network, trained a little further on pictures whose colour channels have changed places."""
    generator = torch.Generator().manual_seed(0)
    network = copy.deepcopy(embedded_model().network).train().requires_grad_(True)
    optimizer = torch.optim.Adam(network.parameters(), lr=TUNING_RATE)
    with torch.enable_grad():
        for _ in range(steps):
            labels = torch.randint(len(CLASSES), (TUNING_BATCH,), generator=generator)
            kept = torch.rand(TUNING_BATCH, 1, 1, generator=generator) > 0.1
            pictures = draw(labels, generator).roll(1, dims=1)
            optimizer.zero_grad(set_to_none=True)
            loss(network, pictures, context_of(labels) * kept, generator).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
    return network.eval().requires_grad_(False)


def _targets(model: BenchModel, guidance: float, plan: Plan) -> Iterator[tuple[str, BenchModel, float, Plan]]:
    """What the parameters are used on: a name, the model, its guidance scale and the plan with the test classes."""
    yield "as fitted", model, guidance, plan
    for other in GUIDANCES if guidance != 1 else ():
        yield f"guidance {other:g}", model, other, plan
    if model.name == "embedded":
        yield f"{LARGE}x{LARGE} pictures", embedded(model.device, size=LARGE), guidance, plan
        yield "trained further", embedded(model.device, network=tuned()), guidance, plan


def _between(below: list[Parameters], above: list[Parameters], low: float, high: float, scale: float) -> list[Parameters]:
    """What a file with two fitted guidance scales gives for one between them."""
    pairs = zip(below, above, strict=True)
    blends = [[Entry(a, guidance=low), Entry(b, guidance=high)] for a, b in pairs]
    return [interpolate(entries, scale).parameters for entries in blends]


def _fitted(model: BenchModel, guidance: float, plan: Plan, mode: str, **more: Any) -> list[Parameters]:
    return [result.parameters for result in fit(model, guidance, plan, mode, **more)]


def transfer(model: BenchModel, guidance: float, plan: Plan, mode: str) -> Iterator[dict[str, Any]]:
    """Parameters used where they were not fitted, against the best stock sampler there and their own undistilled solver."""
    fits = {m: _fitted(model, guidance, plan, m) for m in plan.modes}
    uses = [(*target, fits) for target in _targets(model, guidance, plan)]
    if guidance != 1:
        high, scale = 2 * guidance, 4 / 3 * guidance
        above = {m: _fitted(model, high, plan, m, continued=parameters) for m, parameters in fits.items()}
        mixed = {m: _between(parameters, above[m], guidance, high, scale) for m, parameters in fits.items()}
        own = {m: _fitted(model, scale, plan, m) for m in plan.modes}
        uses.append((f"guidance {scale:g}, interpolated from {guidance:g} and {high:g}", model, scale, plan, mixed))
        uses.append((f"guidance {scale:g}, fitted there", model, scale, plan, own))
    halves = replace(
        plan,
        fit_prompts=tuple(p for p in model.fit_prompts if class_of(p) < 6),
        test_prompts=tuple(p for p in model.test_prompts if class_of(p) >= 6),
    )
    others = {m: _fitted(model, guidance, halves, m) for m in plan.modes}
    uses.append(("classes 6 and 7, fitted on 0 to 5", model, guidance, halves, others))
    for name, there, scale, tested, fitted in uses:
        on = trial(there, scale, tested)
        for number, evaluations in enumerate(plan.evaluations):
            names = plan.finalists(model.name, scale, evaluations)
            best = search(there, scale, evaluations, on.noise, on.reference, on.extra_args, names)
            for fit_mode, samplers in fitted.items():
                parameters = samplers[number]
                found = score(run_parameters(on, parameters, evaluations), on.reference, best.samples)
                plain = run_table(there, scale, parameters.base(), on.noise, on.extra_args)
                undistilled = score(plain, on.reference)["error"]
                yield {
                    "model": model.name,
                    "fitted at": guidance,
                    "used on": name,
                    "mode": fit_mode,
                    "NFE": evaluations,
                    "error": found["error"],
                    "best stock": best.candidate.name,
                    "its error": float(found["error"] / found["ratio"]),
                    "ratio to stock": found["ratio"],
                    "ratio to its base": found["error"] / undistilled,
                }
