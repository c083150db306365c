"""The models that the benchmark of quality runs on: seven trained ones, and two whose denoiser is a closed form.

Each knows its conditional and its unconditional output at one call, so that guidance costs the benchmark one pass. A sample's
label is the number of its prompt. With most models that is one of eight classes; the others have as many prompts as there are
samples, and those of the test are not among those of the fit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import dode.sampling
from benchmarks.models.prompts import COUNT
from benchmarks.models.trained import SD_RANGE, TRAINED, output, trained_network
from dode.demo.model import context_of, embedded_model
from dode.demo.pictures import CLASSES, draw
from dode.schedules import schedule
from dode.tableau import Array

Outputs = Callable[[Tensor, Tensor, Tensor, bool], tuple[Tensor, Tensor | None]]

ALL_CLASSES = tuple(range(len(CLASSES)))

RANK = 48  # directions that a class's Gaussian knows beyond the isotropic rest
PICTURES, EXEMPLARS = 400, 32  # drawn per class
EXEMPLAR_DEVIATION = 0.15


@dataclass(frozen=True)
class BenchModel:
    """A model under test.

    Attributes:
        name: what the command line calls it.
        shape: of one sample.
        sigma_min, sigma_max: the range in which schedules lie.
        coordinate: "flow" for the flow-matching model, else "log_sigma".
        sampling: which of ComfyUI's descriptions of models it is: "edm", "eps" or "flow".
        outputs: ``outputs(x, sigma, labels, both)`` gives the conditional output and, if ``both``, the unconditional one.
        device: where it computes.
        looks: on how many samples the stock search ranks, first all candidates, then those that are left.
        reference_steps: half the steps of iPNDM that give the converged solution.
        fit_prompts, test_prompts: the labels that samples of a fit and of a test have in turn. Label i is of class i modulo 8.
    """

    name: str
    shape: tuple[int, ...]
    sigma_min: float
    sigma_max: float
    coordinate: str
    sampling: str
    outputs: Outputs
    device: torch.device
    looks: tuple[int, int]
    reference_steps: int
    fit_prompts: tuple[int, ...] = ALL_CLASSES
    test_prompts: tuple[int, ...] = ALL_CLASSES

    @property
    def new_prompts(self) -> bool:
        """Whether samples of a test have other prompts than those of a fit."""
        return self.fit_prompts != self.test_prompts

    @property
    def sigma_range(self) -> tuple[float, float]:
        return self.sigma_min, self.sigma_max

    def denoiser(self, guidance: float) -> Callable[..., Tensor]:
        """``denoiser(x, sigma, labels=…)``: the guided output D_uncond + w (D_cond - D_uncond) as a plain tensor."""

        def denoise(x: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
            conditional, null = self.outputs(x, sigma, labels, guidance != 1)
            return conditional if null is None else null + guidance * (conditional - null)

        return denoise

    def fit_denoiser(self, guidance: float, always: bool = False) -> Callable[..., Any]:
        """The same, but with guidance (or ``always``) it returns ``Guided``: the mixed output and the difference beside it."""

        def denoise(x: Tensor, sigma: Tensor, labels: Tensor) -> Any:
            conditional, null = self.outputs(x, sigma, labels, always or guidance != 1)
            if null is None:
                return conditional
            difference = conditional - null
            return dode.sampling.Guided(null + guidance * difference, difference)

        return denoise

    def noise(self, count: int, seed: int) -> Tensor:
        """Unit noise (count, …); sample i depends on the seed and on i alone."""
        generator = torch.Generator().manual_seed(seed)
        return torch.stack([torch.randn(self.shape, generator=generator) for _ in range(count)]).to(self.device)

    def extra_args(self, labels: tuple[int, ...]) -> Callable[[Tensor], dict[str, Tensor]]:
        """From sample indices to the denoiser's further arguments: sample i gets label ``labels[i % len(labels)]``."""
        table = torch.tensor(labels)
        return lambda samples: {"labels": table[samples.cpu() % len(labels)].to(self.device)}

    def reference_grid(self, steps: int) -> Array:
        """A fine grid: Karras's, or for flow uniform in half log-SNR between its two ends."""
        if self.coordinate != "flow":
            return schedule("karras", steps, self.sigma_min, self.sigma_max)
        snr = torch.linspace(-9.0, 9.0, steps - 1, dtype=torch.float64)
        inner = torch.sigmoid(-snr)
        return torch.cat([torch.ones(1, dtype=torch.float64), inner, torch.zeros(1, dtype=torch.float64)]).numpy()


def _placed(network: Any, device: torch.device) -> Any:
    """On its device, with channels last: a third faster on CPUs."""
    return network.to(device, memory_format=torch.channels_last)


def embedded(device: torch.device, network: Any = None, size: int = 32) -> BenchModel:
    """The package's trained model of pictures with 32 (or more) pixels a side; ``network`` replaces its weights."""
    model = embedded_model()
    if network is not None:
        model.network = network
    _placed(model.network, device)

    def outputs(x: Tensor, sigma: Tensor, labels: Tensor, both: bool) -> tuple[Tensor, Tensor | None]:
        context = context_of(labels).to(x)
        if not both:
            return model._denoise(x, sigma, context), None
        pair = torch.cat([x, x]), torch.cat([sigma, sigma]), torch.cat([context, torch.zeros_like(context)])
        conditional, null = model._denoise(*pair).chunk(2)
        return conditional, null

    sigmas = model.sigma_min, model.sigma_max
    return BenchModel("embedded", (3, size, size), *sigmas, "log_sigma", "edm", outputs, device, (2, 8), 100)


def _drawn(count: int, seed: int) -> Tensor:
    """Pictures of 16x16 pixels by class, (8, count, 768), in [-1, 1]: the drawings, averaged over squares of 2x2."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(CLASSES)).repeat_interleave(count)
    return F.avg_pool2d(draw(labels, generator), 2).flatten(1).double().view(len(CLASSES), count, -1)


def gaussians(device: torch.device) -> BenchModel:
    """Variance exploding, in Stable Diffusion's range of σ: a Gaussian a class, with its pictures' mean and covariance.

    A covariance is that of probabilistic PCA (Tipping and Bishop 1999): its leading directions, and in all others the mean of
    what is left. At run time it is a closed form in float64.
    """
    means, bases, variances, floors = [], [], [], []
    for pictures in _drawn(PICTURES, 7):
        _, singular, directions = torch.linalg.svd(pictures - pictures.mean(0), full_matrices=False)
        spread = singular**2 / len(pictures)
        means.append(pictures.mean(0))
        bases.append(directions[:RANK])
        variances.append(spread[:RANK])
        floors.append(spread[RANK:].sum() / (pictures.shape[1] - RANK))
    mixture = _LowRankMixture(*(torch.stack(part).to(device) for part in (means, bases, variances, floors)))
    return BenchModel("gaussians", (3, 16, 16), *SD_RANGE, "log_sigma", "eps", mixture, device, (8, 32), 400)


class _LowRankMixture:
    """Posterior means of x0 given x = x0 + σ n, for K Gaussians N(m, floor + U diag(variance - floor) U^T), one a class.

    means (K, D), bases (K, R, D), variances (K, R), floors (K,).
    """

    def __init__(self, means: Tensor, bases: Tensor, variances: Tensor, floors: Tensor):
        self.means, self.variances, self.floors = means, variances, floors
        self.flat = bases.flatten(0, 1)
        self.projected = torch.einsum("krd,kd->kr", bases, means)

    def __call__(self, x: Tensor, sigma: Tensor, labels: Tensor, both: bool) -> tuple[Tensor, Tensor | None]:
        y, s = x.flatten(1).double(), sigma.double()[:, None]
        noisy = self.variances + s[..., None] ** 2  # (B, K, R)
        rest = self.floors + s**2  # (B, K)
        inner = (y @ self.flat.T).view(len(y), *self.projected.shape) - self.projected
        distance = y.square().sum(1, keepdim=True) - 2 * (y @ self.means.T) + self.means.square().sum(1)
        outside = (distance - inner.square().sum(2)).clamp(min=0)
        exponent = (inner.square() / noisy).sum(2) + outside / rest
        volume = noisy.log().sum(2) + (y.shape[1] - noisy.shape[2]) * rest.log()
        log_posterior = -(exponent + volume) / 2

        def mean(log_weight: Tensor) -> Tensor:
            w = log_weight.softmax(1)
            gain = self.floors / rest  # of a direction that no basis knows
            excess = (self.variances / noisy - gain[..., None]) * inner * w[..., None]
            found = (w * (1 - gain)) @ self.means + (w * gain).sum(1, keepdim=True) * y + excess.flatten(1) @ self.flat
            return found.to(x.dtype).view_as(x)

        own = torch.arange(len(self.means), device=labels.device) == labels[:, None]
        return mean(log_posterior.masked_fill(~own, -torch.inf)), mean(log_posterior) if both else None


def _trained(name: str, device: torch.device) -> BenchModel:
    """A trained model of pictures with 16 pixels a side: of noise prediction in Stable Diffusion's range of σ, or of flow
    matching."""
    prediction = TRAINED[name].prediction
    network, contexts = trained_network(name)
    network, contexts = _placed(network, device), contexts[:, None].to(device)

    def denoised(x: Tensor, sigma: Tensor, context: Tensor) -> Tensor:
        # The velocity n - x0 of x = (1 - σ) x0 + σ n and the noise n of x = x0 + σ n enter in the same way.
        return x - sigma.to(x.dtype).view(-1, 1, 1, 1) * output(prediction, network, x, sigma, context)

    def outputs(x: Tensor, sigma: Tensor, labels: Tensor, both: bool) -> tuple[Tensor, Tensor | None]:
        context = contexts[labels].to(x)
        if not both:
            return denoised(x, sigma, context), None
        pair = torch.cat([x, x]), torch.cat([sigma, sigma]), torch.cat([context, torch.zeros_like(context)])
        conditional, null = denoised(*pair).chunk(2)
        return conditional, null

    sigmas, coordinate = ((0.001, 1.0), "flow") if prediction == "flow" else (SD_RANGE, "log_sigma")
    found = BenchModel(name, (3, 16, 16), *sigmas, coordinate, prediction, outputs, device, (4, 16), 100)
    if TRAINED[name].describe is None:
        return found
    labels = tuple(range(len(contexts)))
    return replace(found, reference_steps=200, fit_prompts=labels[:COUNT], test_prompts=labels[COUNT:])


def exemplars(device: torch.device) -> BenchModel:
    """Variance exploding, in Stable Diffusion's range of σ: 32 pictures a class, each blurred by an isotropic Gaussian."""
    points = _drawn(EXEMPLARS, 11).flatten(0, 1).to(device)
    owners = torch.arange(len(CLASSES), device=device).repeat_interleave(EXEMPLARS)
    norms, spread = points.square().sum(1), EXEMPLAR_DEVIATION**2

    def outputs(x: Tensor, sigma: Tensor, labels: Tensor, both: bool) -> tuple[Tensor, Tensor | None]:
        y, variance = x.flatten(1).double(), sigma.double()[:, None] ** 2 + spread
        log_posterior = (y @ points.T - norms / 2) / variance

        def mean(log_weight: Tensor) -> Tensor:
            found = y * (spread / variance) + (1 - spread / variance) * (log_weight.softmax(1) @ points)
            return found.to(x.dtype).view_as(x)

        own = owners == labels[:, None]
        return mean(log_posterior.masked_fill(~own, -torch.inf)), mean(log_posterior) if both else None

    return BenchModel("exemplars", (3, 16, 16), *SD_RANGE, "log_sigma", "eps", outputs, device, (16, 64), 400)


def joined(models: Sequence[BenchModel]) -> BenchModel:
    """Several models of one shape and range of σ as one. Samples take turns; labels say which model a sample is of.

    Raises:
        ValueError: they differ in shape, σ or coordinate.
    """
    first = models[0]
    if any((m.shape, m.sigma_range, m.coordinate) != (first.shape, first.sigma_range, first.coordinate) for m in models):
        raise ValueError(f"{', '.join(m.name for m in models)} are not of one shape, range of σ and coordinate.")

    def outputs(x: Tensor, sigma: Tensor, labels: Tensor, both: bool) -> tuple[Tensor, Tensor | None]:
        conditional, null = torch.empty_like(x), torch.empty_like(x) if both else None
        for number, model in enumerate(models):
            mine = (labels % len(models) == number).nonzero()[:, 0]
            if len(mine):
                found, other = model.outputs(x[mine], sigma[mine], labels[mine] // len(models), both)
                conditional[mine] = found
                if null is not None and other is not None:
                    null[mine] = other
        return conditional, null

    def labels(prompts: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        return tuple(label * len(models) + number for each in zip(*prompts) for number, label in enumerate(each))  # noqa: B905

    return replace(
        first,
        name=" and ".join(model.name for model in models),
        outputs=outputs,
        fit_prompts=labels([model.fit_prompts for model in models]),
        test_prompts=labels([model.test_prompts for model in models]),
    )


MODELS: dict[str, Callable[[torch.device], BenchModel]] = {
    "embedded": embedded,
    **{name: partial(_trained, name) for name in TRAINED},
    "gaussians": gaussians,
    "exemplars": exemplars,
}
