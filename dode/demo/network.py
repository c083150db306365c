"""The network of the embedded model: a small class-conditional U-Net for pictures of three channels.

It is called the way ComfyUI calls a diffusion model, ``network(x, t, context=...)``, with EDM's noise conditioning
``t = ln(σ) / 4`` (Karras et al. 2022, table 1), so the same module serves the command line and the demo node.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Block(nn.Module):
    """Residual block, modulated by the embedding of noise level and class."""

    def __init__(self, channels_in: int, channels: int, embedding: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(8, channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * channels)
        self.norm2 = nn.GroupNorm(8, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.skip = nn.Conv2d(channels_in, channels, 1) if channels_in != channels else nn.Identity()
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift))
        return (self.skip(x) + h) * math.sqrt(0.5)


class _Attention(nn.Module):
    """Self-attention over all positions; no position code, so any picture size works."""

    def __init__(self, channels: int, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(8, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, h * w).transpose(-1, -2).unbind(1)
        attended = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(attended.transpose(-1, -2).reshape(b, c, h, w))


class UNet(nn.Module):
    """Predicts EDM's raw output F from c_in · x, ln(σ)/4 and a class vector.

    Args:
        classes: number of classes. ``context`` is (B, 1, classes): one-hot for a class, zeros for the null class, and
            anything between for a blend.
        width: channels at the finer of the two levels.
        embedding: width of the embedding of noise level and class.
    """

    def __init__(self, classes: int = 8, width: int = 64, embedding: int = 128):
        super().__init__()
        wide = 7 * width // 4
        self.classes, self.embedding = classes, embedding
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, math.log(64.0), embedding // 2)), persistent=False)
        self.noise_embedding = nn.Linear(embedding, embedding)
        self.class_embedding = nn.Linear(classes, embedding, bias=False)
        self.mix_embedding = nn.Linear(embedding, embedding)
        self.conv_in = nn.Conv2d(12, width, 3, padding=1)
        self.fine_in = nn.ModuleList([_Block(width, width, embedding), _Block(width, width, embedding)])
        self.down = nn.Conv2d(width, wide, 3, padding=1, stride=2)
        self.coarse = nn.ModuleList([_Block(wide, wide, embedding) for _ in range(2)])
        self.attention_in = _Attention(wide)
        self.middle = _Block(wide, wide, embedding)
        self.attention_out = _Attention(wide)
        self.coarse_out = _Block(2 * wide, wide, embedding)
        self.up = nn.Conv2d(wide, width, 3, padding=1)
        self.fine_out = nn.ModuleList([_Block(2 * width, width, embedding), _Block(width, width, embedding)])
        self.norm_out = nn.GroupNorm(8, width)
        self.conv_out = nn.Conv2d(width, 12, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)

    @property
    def dtype(self) -> torch.dtype:
        return self.conv_in.weight.dtype

    def forward(self, x: Tensor, t: Tensor, context: Tensor | None = None, **_: Any) -> Tensor:
        """Raw output F, shaped like ``x`` (B, 3, H, W); H and W must be multiples of 4. ``t`` is (B,)."""
        phase = t[:, None].to(self.frequencies) * self.frequencies
        noise = torch.cat([phase.cos(), phase.sin()], dim=1).to(x.dtype)
        embedding = self.noise_embedding(noise)
        if context is not None:
            embedding = embedding + self.class_embedding(context.mean(dim=1).to(x.dtype) * math.sqrt(self.classes))
        embedding = F.silu(self.mix_embedding(F.silu(embedding)))

        h = self.conv_in(F.pixel_unshuffle(x, 2))
        for block in self.fine_in:
            h = block(h, embedding)
        fine, h = h, self.down(h)
        h = self.attention_in(self.coarse[0](h, embedding))
        h = coarse = self.coarse[1](h, embedding)
        h = self.attention_out(self.middle(h, embedding))
        h = self.coarse_out(torch.cat([h, coarse], dim=1), embedding)
        h = self.up(F.interpolate(h, scale_factor=2.0, mode="nearest"))
        h = self.fine_out[0](torch.cat([h, fine], dim=1), embedding)
        h = self.fine_out[1](h, embedding)
        return F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(h))), 2)
