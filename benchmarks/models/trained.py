"""Six small models of pictures with 16 pixels a side, trained for the benchmark of quality.

    python -m benchmarks.models.trained flow --steps 4500                 velocity; about ten minutes
    python -m benchmarks.models.trained eps --steps 3500                  noise
    python -m benchmarks.models.trained flow-prompts --steps 4500         prompts in place of classes
    python -m benchmarks.models.trained eps-prompts --steps 3500          the same
    python -m benchmarks.models.trained photos --steps 4000 --pool 8000   patches of photographs
    python -m benchmarks.models.trained sparse --steps 4000 --pool 8000   points and strokes

Each writes trained_NAME.safetensors beside this file.

"flow" learns the velocity n - x0 on the straight path x = (1 - σ) x0 + σ n (Lipman et al. 2023; Liu et al. 2023), σ drawn
uniformly; "eps" learns the noise n of x = x0 + σ n (Ho et al. 2020) in Stable Diffusion's range of σ, drawn uniformly in ln σ.
The class, or the prompt, is dropped one time in ten.
"""

import argparse
import copy
import math
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.models.photos import patches
from benchmarks.models.prompts import Describe, Draw, describe, drawings, prompts
from benchmarks.models.sparse import describe_sparse, sparse
from dode.demo.network import UNet
from dode.demo.pictures import CLASSES

WIDTH, EMBEDDING = 32, 64
SD_RANGE = (0.029167539, 14.614643)  # ComfyUI's ModelSamplingDiscrete as it comes


class Trained(NamedTuple):
    """What a model is trained on, and what it predicts.

    Attributes:
        prediction: "flow" or "eps".
        draw: its pictures.
        describe: their prompts; without it there are classes alone.
        stored: whether the benchmark's prompts are kept beside the weights, since to draw them takes packages that it does not
            need otherwise.
    """

    prediction: str
    draw: Draw = drawings
    describe: Describe | None = None
    stored: bool = False

    def contexts(self, pictures: Tensor, labels: Tensor) -> Tensor:
        """What the network is told of pictures of these classes (B,): (B, length)."""
        return self.describe(pictures, labels) if self.describe else F.one_hot(labels, len(CLASSES)).float()

    def prompts(self) -> Tensor:
        """The benchmark's prompts, one a row: the classes, or as many as ``benchmarks.models.prompts.prompts`` gives."""
        return prompts(self.draw, self.describe) if self.describe else torch.eye(len(CLASSES))


TRAINED = {
    "flow": Trained("flow"),
    "eps": Trained("eps"),
    "flow-prompts": Trained("flow", describe=describe),
    "eps-prompts": Trained("eps", describe=describe),
    "photos": Trained("eps", patches, describe, stored=True),
    "sparse": Trained("eps", sparse, describe_sparse),
}


def output(prediction: str, network: UNet, x: Tensor, sigma: Tensor, context: Tensor | None) -> Tensor:
    """What the network predicts for x (B, 3, 16, 16) at σ (B,): the velocity ("flow") or the noise ("eps")."""
    s = sigma.to(x.dtype)
    if prediction == "flow":
        return network(x, s, context)
    return network(x / (s**2 + 1).sqrt()[:, None, None, None], s.log() / 4, context)


def weights(name: str) -> Path:
    return Path(__file__).with_name(f"trained_{name.replace('-', '_')}.safetensors")


def trained_network(name: str) -> tuple[UNet, Tensor]:
    """The trained network, float32, on the CPU, and its prompts (count, length)."""
    state, stored = load_file(weights(name)), TRAINED[name].stored
    contexts = state.pop("prompts").float() if stored else TRAINED[name].prompts()
    network = UNet(contexts.shape[1], WIDTH, EMBEDDING)
    network.load_state_dict(state)
    return network.float().eval().requires_grad_(False), contexts


def train(name: str, steps: int, batch: int, rate: float, pool_size: int) -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    kind = TRAINED[name]
    labels = torch.arange(len(CLASSES)).repeat(pool_size)
    pool = kind.draw(labels, generator)
    contexts = kind.contexts(pool, labels)
    network = UNet(contexts.shape[1], WIDTH, EMBEDDING)
    average = copy.deepcopy(network).requires_grad_(False)
    optimizer = torch.optim.Adam(network.parameters(), lr=rate, betas=(0.9, 0.99))
    mean = 1.0
    for step in range(steps):
        chosen = torch.randint(len(pool), (batch,), generator=generator)
        pictures = pool[chosen]
        context = contexts[chosen, None] * (torch.rand(batch, 1, 1, generator=generator) > 0.1)
        for group in optimizer.param_groups:
            group["lr"] = rate * min((step + 1) / 200, 0.5 + 0.5 * math.cos(math.pi * step / steps))
        sigma, noise = torch.rand(batch, generator=generator), torch.randn(pictures.shape, generator=generator)
        if kind.prediction == "eps":
            sigma = SD_RANGE[0] * (SD_RANGE[1] / SD_RANGE[0]) ** sigma
        s = sigma[:, None, None, None]
        flow = kind.prediction == "flow"
        x, target = ((1 - s) * pictures + s * noise, noise - pictures) if flow else (pictures + s * noise, noise)
        loss = (output(kind.prediction, network, x, sigma, context) - target).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        decay = min(0.998, (step + 1) / (step + 10))
        for mine, its in zip(average.parameters(), network.parameters(), strict=True):
            mine.lerp_(its.detach(), 1 - decay)
        mean += 0.01 * (loss.item() - mean)
        if step % 200 == 199:
            print(step + 1, f"{mean:.4f}", flush=True)
    metadata = {"steps": str(steps), "batch": str(batch), "loss": f"{mean:.4f}"}
    tensors = {**average.state_dict(), **({"prompts": kind.prompts()} if kind.stored else {})}
    save_file({key: value.half().contiguous() for key, value in tensors.items()}, weights(name), metadata)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", choices=TRAINED)
    parser.add_argument("--steps", type=int, default=4500)
    parser.add_argument("--threads", type=int, help="of torch on the CPU")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--pool", type=int, default=2000, help="pictures of each class to train on")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    train(options.name, options.steps, options.batch, options.rate, options.pool)
