"""Four small models of pictures with 16 pixels a side, trained for the benchmark of quality.

    python benchmarks/trained.py flow --steps 4500            writes benchmarks/trained_flow.safetensors, in about ten minutes
    python benchmarks/trained.py eps --steps 3500             the same for benchmarks/trained_eps.safetensors
    python benchmarks/trained.py flow --prompts --steps 4500  benchmarks/trained_flow_prompts.safetensors: prompts for classes
    python benchmarks/trained.py eps --prompts --steps 3500   benchmarks/trained_eps_prompts.safetensors

"flow" learns the velocity n - x0 on the straight path x = (1 - σ) x0 + σ n (Lipman et al. 2023; Liu et al. 2023), σ drawn
uniformly; "eps" learns the noise n of x = x0 + σ n (Ho et al. 2020) in Stable Diffusion's range of σ, drawn uniformly in ln σ.
The class, or the prompt, is dropped one time in ten.
"""

import argparse
import copy
import math
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.prompts import LENGTH, describe
from dode.demo.network import UNet
from dode.demo.pictures import CLASSES, draw

WIDTH, EMBEDDING = 32, 64
SD_RANGE = (0.029167539, 14.614643)  # ComfyUI's ModelSamplingDiscrete as it comes


def output(kind: str, network: UNet, x: Tensor, sigma: Tensor, context: Tensor | None) -> Tensor:
    """What the network predicts for x (B, 3, 16, 16) at σ (B,): the velocity ("flow") or the noise ("eps")."""
    s = sigma.to(x.dtype)
    if kind == "flow":
        return network(x, s, context)
    return network(x / (s**2 + 1).sqrt()[:, None, None, None], s.log() / 4, context)


def weights(kind: str, prompts: bool) -> Path:
    return Path(__file__).with_name(f"trained_{kind}{'_prompts' * prompts}.safetensors")


def new_network(prompts: bool) -> UNet:
    return UNet(LENGTH if prompts else len(CLASSES), WIDTH, EMBEDDING)


def trained_network(kind: str, prompts: bool) -> UNet:
    """The trained network, float32, on the CPU."""
    network = new_network(prompts)
    network.load_state_dict(load_file(weights(kind, prompts)))
    return network.float().eval().requires_grad_(False)


def train(kind: str, prompts: bool, steps: int, batch: int, rate: float) -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    network = new_network(prompts)
    average = copy.deepcopy(network).requires_grad_(False)
    optimizer = torch.optim.Adam(network.parameters(), lr=rate, betas=(0.9, 0.99))
    labels = torch.arange(len(CLASSES)).repeat(2000)
    pool = F.avg_pool2d(draw(labels, generator), 2)
    contexts = describe(pool, labels) if prompts else F.one_hot(labels, len(CLASSES)).float()
    mean = 1.0
    for step in range(steps):
        chosen = torch.randint(len(pool), (batch,), generator=generator)
        pictures = pool[chosen]
        context = contexts[chosen, None] * (torch.rand(batch, 1, 1, generator=generator) > 0.1)
        for group in optimizer.param_groups:
            group["lr"] = rate * min((step + 1) / 200, 0.5 + 0.5 * math.cos(math.pi * step / steps))
        sigma, noise = torch.rand(batch, generator=generator), torch.randn(pictures.shape, generator=generator)
        if kind == "eps":
            sigma = SD_RANGE[0] * (SD_RANGE[1] / SD_RANGE[0]) ** sigma
        s = sigma[:, None, None, None]
        x, target = ((1 - s) * pictures + s * noise, noise - pictures) if kind == "flow" else (pictures + s * noise, noise)
        loss = (output(kind, network, x, sigma, context) - target).square().mean()
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
    save_file(
        {name: value.half().contiguous() for name, value in average.state_dict().items()}, weights(kind, prompts), metadata
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kind", choices=["flow", "eps"])
    parser.add_argument("--prompts", action="store_true", help="prompts for classes (benchmarks/prompts.py)")
    parser.add_argument("--steps", type=int, default=4500)
    parser.add_argument("--threads", type=int, help="of torch on the CPU")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=2e-3)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    train(options.kind, options.prompts, options.steps, options.batch, options.rate)
