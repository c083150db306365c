"""Train the embedded model: ``python -m dode.demo.train --output weights.safetensors``.

EDM's training (Karras et al. 2022): log-normal noise levels, its preconditioning and loss weights, with the class
dropped one time in ten so that the model also learns the null class that guidance needs. Every picture is drawn fresh.
"""

import argparse
import copy
import math
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from tqdm import tqdm

from dode.demo.network import UNet
from dode.demo.pictures import CLASSES, draw

SIGMA_DATA = 0.5
LOG_SIGMA_MEAN, LOG_SIGMA_STD = -0.9, 1.3


def loss(network: UNet, pictures: torch.Tensor, context: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """EDM's denoising loss with its weights, which is the plain squared error of the raw output F."""
    sigma = (torch.randn(len(pictures), 1, 1, 1, generator=generator) * LOG_SIGMA_STD + LOG_SIGMA_MEAN).exp()
    noise = torch.randn(pictures.shape, generator=generator)
    scale = (sigma**2 + SIGMA_DATA**2).sqrt()
    noisy = pictures + sigma * noise
    target = (pictures - noisy * SIGMA_DATA**2 / scale**2) * scale / (sigma * SIGMA_DATA)
    with torch.autocast("cpu", torch.bfloat16):
        raw = network(noisy / scale, sigma.flatten().log() / 4, context)
    return (raw.float() - target).square().mean()


def train(output: Path, steps: int, batch: int, rate: float, seed: int) -> None:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    network = UNet(len(CLASSES))
    average = copy.deepcopy(network).requires_grad_(False)
    optimizer = torch.optim.Adam(network.parameters(), lr=rate, betas=(0.9, 0.99))
    started, mean = time.time(), 1.0
    bar = tqdm(range(steps), mininterval=5)
    for step in bar:
        labels = torch.randint(len(CLASSES), (batch,), generator=generator)
        context = torch.nn.functional.one_hot(labels, len(CLASSES)).float()[:, None]
        context = context * (torch.rand(batch, 1, 1, generator=generator) > 0.1)
        for group in optimizer.param_groups:
            group["lr"] = rate * min((step + 1) / 300, 0.5 + 0.5 * math.cos(math.pi * step / steps))
        value = loss(network, draw(labels, generator), context, generator)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        decay = min(0.9985, (step + 1) / (step + 10))
        for mine, its in zip(average.parameters(), network.parameters(), strict=True):
            mine.lerp_(its.detach(), 1 - decay)
        mean += 0.01 * (value.item() - mean)
        bar.set_postfix(loss=f"{mean:.4f}", refresh=False)
        if (step + 1) % 500 == 0 or step + 1 == steps:
            minutes = (time.time() - started) / 60
            metadata = {"steps": str(step + 1), "batch": str(batch), "minutes": f"{minutes:.1f}", "loss": f"{mean:.4f}"}
            save_file({k: v.half().contiguous() for k, v in average.state_dict().items()}, output, metadata)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="where the half-precision weights go (.safetensors)")
    parser.add_argument("--steps", type=int, default=14000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate of Adam")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    train(arguments.output, arguments.steps, arguments.batch, arguments.rate, arguments.seed)


if __name__ == "__main__":
    main()
