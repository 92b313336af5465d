"""R3GAN's networks (Huang et al. 2024): residual blocks of grouped convolutions, without normalisation.

A block is x + f(x), f = conv1x1 . lrelu . conv3x3 in groups . lrelu . conv1x1 . lrelu, and starts as the identity
(Fixup, Zhang et al. 2019): its last weights are zero, the others have the deviation gain / sqrt(fan_in) * L^(-1/4),
L blocks deep. Maps are resized bilinearly, so that nothing of them is a checkerboard. The caption joins the latent, and
pixels read words at 8 and 16 pixels.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.batch import Condition
from trainer.errors import UserError
from trainer.networks.layers import Style, TextVector, WordAttention, channels_at, grown, map_sizes
from trainer.networks.residual import reading
from trainer.networks.sized import fitted, maps_at
from trainer.size import Resolution, Size

GAIN = math.sqrt(2 / (1 + 0.2**2))  # of a leaky ReLU: keeps the variance


class Block(nn.Module):
    """x + f(x), (N, C, H, W) -> (N, C, H, W). expansion: width of the middle; group: its channels that see each other.

    depth: number L of blocks in the network, by which the branch is scaled at the start.
    """

    def __init__(self, channels: int, expansion: int, group: int, depth: int):
        super().__init__()
        middle = channels * expansion
        if middle % group:
            raise UserError(f"{channels} channels times expansion={expansion}: expected a multiple of group={group}")
        self.widen = scaled(nn.Conv2d(channels, middle, kernel_size=1), GAIN * depth**-0.25)
        self.mix = scaled(
            nn.Conv2d(middle, middle, kernel_size=3, padding=1, groups=middle // group), GAIN * depth**-0.25
        )
        self.narrow = scaled(nn.Conv2d(middle, channels, kernel_size=1, bias=False), 0.0)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.leaky_relu(self.widen(F.leaky_relu(x, 0.2)), 0.2)
        return x + self.narrow(F.leaky_relu(self.mix(inner), 0.2))


class Stage(nn.Sequential):
    """Blocks at one size. (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int, num_blocks: int, expansion: int, group: int, depth: int):
        super().__init__(*(Block(channels, expansion, group, depth) for _ in range(num_blocks)))


class Generator(nn.Module):
    """Latent (N, latent_channels) and Condition to images (N, 3, H, W) in [-1, 1]; `text` as in `dcgan.Generator`.

    The last layer is linear, as in the paper. While it trains nothing is cut off, or nobody would call it back.
    num_blocks: of each size.
    """

    any_size = True
    canvas: Size | None = None

    def __init__(
        self,
        resolution: Resolution,
        latent_channels: int,
        text_channels: int,
        text: nn.Module,
        base_channels: int = 32,
        max_channels: int = 256,
        style_channels: int = 256,
        num_blocks: int = 1,
        expansion: int = 2,
        group: int = 16,
    ):
        super().__init__()
        self.sizes = sizes = map_sizes(resolution)
        widths = [channels_at(size, resolution, base_channels, max_channels) for size in sizes]
        depth = num_blocks * len(sizes)
        self.latent_channels = latent_channels
        self.text = text
        self.style = Style(latent_channels, text_channels, style_channels)
        self.basis = nn.Parameter(torch.randn(widths[0], *sizes[0]))
        self.start = scaled(nn.Linear(style_channels, widths[0]), 1.0)
        self.stages = nn.ModuleList(Stage(width, num_blocks, expansion, group, depth) for width in widths)
        self.widths = nn.ModuleList(resized(a, b) for a, b in pairwise(widths))
        self.attention = reading(sizes, widths, text_channels)
        self.image = scaled(nn.Conv2d(widths[-1], 3, kernel_size=1), 1.0)

    def forward(self, noise: Tensor, condition: Condition) -> Tensor:
        condition = self.text(condition)
        style = self.style(noise, condition)
        sizes = maps_at(self.canvas, self.sizes)
        basis = fitted(self.basis[None], sizes[0])
        x = basis * self.start(F.layer_norm(style, style.shape[1:]))[:, :, None, None]  # of unit variance
        for number, stage in enumerate(self.stages):
            if number:  # 1x1 before resizing: a quarter of the work, and the same
                x = F.interpolate(self.widths[number - 1](x), scale_factor=2, mode="bilinear")
                x = grown(x, sizes[number])
            x = stage(x)
            if (side := str(min(self.sizes[number]))) in self.attention:
                x = self.attention[side](x, condition)
        image = self.image(F.leaky_relu(x, 0.2))
        return image if self.training else image.clamp(-1, 1)


class Trunk(nn.Module):
    """Images (N, 3, H, W) to features (N, out_channels, 8, 8), or the second of `map_sizes`."""

    def __init__(
        self, resolution: Resolution, base_channels: int, max_channels: int, num_blocks: int, expansion: int, group: int
    ):
        super().__init__()
        sizes = map_sizes(resolution)[:0:-1]
        widths = [channels_at(size, resolution, base_channels, max_channels) for size in sizes]
        depth = num_blocks * (len(sizes) + 1)
        self.image = scaled(nn.Conv2d(3, widths[0], kernel_size=1), 1.0)
        self.downs = nn.Sequential(
            *(Down(a, b, num_blocks, expansion, group, depth) for a, b in pairwise(widths)),
            Stage(widths[-1], num_blocks, expansion, group, depth),
        )
        self.out_channels = widths[-1]

    def forward(self, image: Tensor) -> Tensor:
        return self.downs(self.image(image))


class Down(nn.Module):
    """Blocks, then half the size: (N, in, H, W) -> (N, out, H/2, W/2)."""

    def __init__(self, in_channels: int, out_channels: int, num_blocks: int, expansion: int, group: int, depth: int):
        super().__init__()
        self.stage = Stage(in_channels, num_blocks, expansion, group, depth)
        self.width = resized(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.width(F.avg_pool2d(self.stage(x), 2))


class Discriminator(nn.Module):
    """Images and Condition to logits (N,), higher = real and matching: w . h + <h, V text> / sqrt(E), h of E channels.

    `features` sees the image alone, `logits` joins the caption, so one image is judged against several cheaply.
    """

    any_size = True

    def __init__(
        self,
        resolution: Resolution,
        text_channels: int,
        text: nn.Module,
        base_channels: int = 32,
        max_channels: int = 256,
        head_channels: int = 256,
        num_blocks: int = 1,
        expansion: int = 2,
        group: int = 16,
    ):
        super().__init__()
        self.text = text
        self.features = Trunk(resolution, base_channels, max_channels, num_blocks, expansion, group)
        sizes = map_sizes(resolution)
        self.size = sizes[0]
        width = channels_at(sizes[0], resolution, base_channels, max_channels)
        depth = num_blocks * len(sizes)
        self.attention = WordAttention(self.features.out_channels, text_channels)
        self.width = resized(self.features.out_channels, width)
        self.stage = Stage(width, num_blocks, expansion, group, depth)
        self.basis = scaled(nn.Conv2d(width, width, kernel_size=sizes[0], groups=width, bias=False), 1.0)
        self.head = scaled(nn.Linear(width, head_channels, bias=False), 1.0)
        self.caption = TextVector(text_channels, head_channels)
        self.unconditional = nn.Linear(head_channels, 1)

    def logits(self, features: Tensor, condition: Condition) -> Tensor:
        condition = self.text(condition)
        x = self.width(F.avg_pool2d(self.attention(features, condition), 2))
        x = fitted(F.leaky_relu(self.stage(x), 0.2), self.size)
        h = self.head(self.basis(x).flatten(1))
        match = (h * self.caption(condition)).sum(1) / math.sqrt(h.shape[1])
        return self.unconditional(h).squeeze(1) + match

    def forward(self, image: Tensor, condition: Condition) -> Tensor:
        return self.logits(self.features(image), condition)


def resized(in_channels: int, out_channels: int) -> nn.Module:
    """A 1x1 convolution where the width changes with the size."""
    if in_channels == out_channels:
        return nn.Identity()
    return scaled(nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False), 1.0)


def scaled(layer: Any, gain: float) -> Any:
    """The layer with weights of standard deviation gain / sqrt(fan_in), and no bias at first."""
    with torch.no_grad():
        layer.weight.normal_(0, gain / math.sqrt(layer.weight[0].numel()))
        if layer.bias is not None:
            layer.bias.zero_()
    return layer
