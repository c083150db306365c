"""The three models that the benchmark of quality runs on: a trained one, and two whose denoiser is a closed form.

Each knows its conditional and its unconditional output at one call, so that guidance costs the benchmark one pass. Sample i has
class i modulo the number of classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import dode.sampling
from dode.demo.model import context_of, embedded_model
from dode.demo.pictures import CLASSES, draw
from dode.schedules import schedule
from dode.tableau import Array

Outputs = Callable[[Tensor, Tensor, Tensor, bool], tuple[Tensor, Tensor | None]]

COMPONENTS, RANK = 4, 48  # Gaussians per class of the flow model, and directions that each knows beyond the isotropic rest
PICTURES, EXEMPLARS = 400, 32  # drawn per class
EXEMPLAR_DEVIATION = 0.15
SD_RANGE = (0.029167539, 14.614643)  # ComfyUI's ModelSamplingDiscrete as it comes


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
        reference_steps: of Heun's method, for the converged solution.
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

    def extra_args(self, classes: tuple[int, ...] = tuple(range(len(CLASSES)))) -> Callable[[Tensor], dict[str, Tensor]]:
        """From sample indices to the denoiser's further arguments: sample i gets class ``classes[i % len(classes)]``."""
        table = torch.tensor(classes)
        return lambda samples: {"labels": table[samples.cpu() % len(classes)].to(self.device)}

    def reference_grid(self, steps: int) -> Array:
        """A fine grid: Karras's, or for flow uniform in half log-SNR between its two ends."""
        if self.coordinate != "flow":
            return schedule("karras", steps, self.sigma_min, self.sigma_max)
        snr = torch.linspace(-9.0, 9.0, steps - 1, dtype=torch.float64)
        inner = torch.sigmoid(-snr)
        return torch.cat([torch.ones(1, dtype=torch.float64), inner, torch.zeros(1, dtype=torch.float64)]).numpy()


def embedded(device: torch.device, network: Any = None, size: int = 32) -> BenchModel:
    """The package's trained model of pictures with 32 (or more) pixels a side; ``network`` replaces its weights."""
    model = embedded_model()
    if network is not None:
        model.network = network
    model.network.to(device)

    def outputs(x: Tensor, sigma: Tensor, labels: Tensor, both: bool) -> tuple[Tensor, Tensor | None]:
        context = context_of(labels).to(x)
        if not both:
            return model._denoise(x, sigma, context), None
        pair = torch.cat([x, x]), torch.cat([sigma, sigma]), torch.cat([context, torch.zeros_like(context)])
        conditional, null = model._denoise(*pair).chunk(2)
        return conditional, null

    sigmas = model.sigma_min, model.sigma_max
    return BenchModel("embedded", (3, size, size), *sigmas, "log_sigma", "edm", outputs, device, (3, 8), 100)


def _drawn(count: int, seed: int) -> Tensor:
    """Pictures of 16x16 pixels by class, (8, count, 768), in [-1, 1]: the drawings, averaged over squares of 2x2."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(CLASSES)).repeat_interleave(count)
    return F.avg_pool2d(draw(labels, generator), 2).flatten(1).double().view(len(CLASSES), count, -1)


def _k_means(points: Tensor, clusters: int, rounds: int = 20) -> list[Tensor]:
    """Lloyd's algorithm from centres far apart; clusters of fewer than 8 points go to the nearest other."""
    centres = points[:1]
    while len(centres) < clusters:
        centres = torch.cat([centres, points[torch.cdist(points, centres).amin(1).argmax()][None]])
    for _ in range(rounds):
        nearest = torch.cdist(points, centres).argmin(1)
        sizes = torch.bincount(nearest, minlength=len(centres))
        centres = torch.stack([points[nearest == k].mean(0) for k in range(len(centres)) if sizes[k] >= 8])
    nearest = torch.cdist(points, centres).argmin(1)
    return [points[nearest == k] for k in range(len(centres))]


def gaussians(device: torch.device) -> BenchModel:
    """Flow matching on a mixture of Gaussians: four per class, with the mean and covariance of the pictures in a cluster.

    A covariance is that of probabilistic PCA (Tipping and Bishop 1999): its leading directions, and in all others the mean of
    what is left. At run time it is a closed form in float64.
    """
    means, bases, variances, floors, weights, owners = [], [], [], [], [], []
    for label, pictures in enumerate(_drawn(PICTURES, 7)):
        for cluster in _k_means(pictures, COMPONENTS):
            centred = cluster - cluster.mean(0)
            rank = min(RANK, len(cluster) - 2)
            _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
            spread = singular**2 / len(cluster)
            floor = spread[rank:].sum() / (pictures.shape[1] - rank) + 1e-4
            padding = RANK - rank
            means.append(cluster.mean(0))
            bases.append(F.pad(directions[:rank], (0, 0, 0, padding)))
            variances.append(F.pad(spread[:rank] + 1e-4, (0, padding), value=float(floor)))
            floors.append(floor)
            weights.append(len(cluster) / len(pictures))
            owners.append(label)
    mixture = _LowRankMixture(
        torch.stack(means),
        torch.stack(bases),
        torch.stack(variances),
        torch.stack(floors),
        torch.tensor(weights).double().log(),
        torch.tensor(owners),
        device,
    )
    return BenchModel("gaussians", (3, 16, 16), 0.001, 1.0, "flow", "flow", mixture, device, (8, 32), 400)


class _LowRankMixture:
    """Posterior means of x0 given x = (1 - σ) x0 + σ n, for K Gaussians N(m, floor + U diag(variance - floor) U^T).

    means (K, D), bases (K, R, D), variances (K, R), floors (K,), log_weights (K,) within the class, owners (K,) the classes.
    """

    def __init__(self, *parts: Any):
        *tensors, device = parts
        self.means, self.bases, self.variances, self.floors, self.log_weights, self.owners = (t.to(device) for t in tensors)
        components, rank, size = self.bases.shape
        self.flat = self.bases.reshape(components * rank, size)
        self.projected = torch.einsum("krd,kd->kr", self.bases, self.means)

    def __call__(self, x: Tensor, sigma: Tensor, labels: Tensor, both: bool) -> tuple[Tensor, Tensor | None]:
        y, s = x.flatten(1).double(), sigma.double()[:, None]
        a = 1 - s
        noisy = a[..., None] ** 2 * self.variances + s[..., None] ** 2  # (B, K, R)
        rest = a**2 * self.floors + s**2  # (B, K)
        inner = (y @ self.flat.T).view(len(y), *self.projected.shape) - a[..., None] * self.projected
        distance = y.square().sum(1, keepdim=True) - 2 * a * (y @ self.means.T) + a**2 * self.means.square().sum(1)
        outside = (distance - inner.square().sum(2)).clamp(min=0)
        exponent = (inner.square() / noisy).sum(2) + outside / rest
        volume = noisy.log().sum(2) + (y.shape[1] - noisy.shape[2]) * rest.log()
        log_posterior = self.log_weights - (exponent + volume) / 2

        def mean(log_weight: Tensor) -> Tensor:
            w = log_weight.softmax(1)
            gain = a * self.floors / rest  # of a direction that no basis knows
            excess = (a[..., None] * self.variances / noisy - gain[..., None]) * inner * w[..., None]
            found = (w * (1 - gain * a)) @ self.means + (w * gain).sum(1, keepdim=True) * y + excess.flatten(1) @ self.flat
            return found.to(x.dtype).view_as(x)

        own = self.owners == labels[:, None]
        return mean(log_posterior.masked_fill(~own, -torch.inf)), mean(log_posterior) if both else None


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


MODELS: dict[str, Callable[[torch.device], BenchModel]] = {
    "embedded": embedded,
    "gaussians": gaussians,
    "exemplars": exemplars,
}
