"""A residual family with word-level cross-attention at 8 and 16 pixels, nearest resizing and modulated norms."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from trainer.batch import Condition
from trainer.networks.enlarging import enlarged
from trainer.networks.layers import (
    ModulatedNorm,
    PosteriorHead,
    ProjectionHead,
    Style,
    WordAttention,
    channels_at,
    grown,
    map_sizes,
)
from trainer.networks.sized import fitted, maps_at
from trainer.size import Resolution, Size

READING = range(8, 32)  # shorter sides of the maps at which pixels read words: 8 and 16, where they are powers of two


def reading(
    sizes: Sequence[Size], widths: Sequence[int], text_channels: int, sides: Container[int] = READING
) -> nn.ModuleDict:
    """What reads words at maps whose shorter side is one of `sides`, each by that."""
    pairs = [(min(size), width) for size, width in zip(sizes, widths, strict=True)]
    return nn.ModuleDict({str(side): WordAttention(width, text_channels) for side, width in pairs if side in sides})


class Block(nn.Module):
    """x + two modulated 3x3 convolutions: (N, C, h, w), (N, S) -> (N, C, h, w)."""

    def __init__(self, channels: int, style_channels: int):
        super().__init__()
        self.norm1, self.norm2 = (ModulatedNorm(channels, style_channels) for _ in range(2))
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, kernel_size=3, padding=1) for _ in range(2))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        out = self.conv1(F.silu(self.norm1(x, style)))
        return x + self.conv2(F.silu(self.norm2(out, style)))


class UpBlock(nn.Module):
    """(N, in, H, W) -> (N, out, 2H, 2W): skip + two modulated 3x3 convolutions."""

    def __init__(self, in_channels: int, out_channels: int, style_channels: int):
        super().__init__()
        self.norm1 = ModulatedNorm(in_channels, style_channels)
        self.norm2 = ModulatedNorm(out_channels, style_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1)
        self.skip = nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        skip = F.interpolate(self.skip(x), scale_factor=2)  # 1x1 before resizing: a quarter of the work
        x = enlarged(F.silu(self.norm1(x, style)), self.conv1)
        x = self.conv2(F.silu(self.norm2(x, style)))
        return (skip + x) * 0.5**0.5


class DownBlock(nn.Module):
    """(N, in, H, W) -> (N, out, H/2, W/2): skip + a 3x3 and a 4x4 convolution, the branches added at unit
    variance."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, in_channels, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(in_channels, out_channels, kernel_size=4, stride=2, padding=1)
        self.skip = nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.skip(F.avg_pool2d(x, 2))
        x = self.conv2(F.leaky_relu(self.conv1(F.leaky_relu(x, 0.2)), 0.2))
        return (skip + x) * 0.5**0.5


class Generator(nn.Module):
    """Latent (N, latent_channels) and Condition to images (N, 3, H, W) in [-1, 1]; `text` as in `dcgan.Generator`."""

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
    ):
        super().__init__()
        self.sizes = sizes = map_sizes(resolution)
        widths = [channels_at(size, resolution, base_channels, max_channels) for size in sizes]
        self.latent_channels = latent_channels
        self.text = text
        self.style = Style(latent_channels, text_channels, style_channels)
        self.start = nn.Linear(style_channels, widths[0] * math.prod(sizes[0]))
        self.ups = nn.ModuleList(UpBlock(a, b, style_channels) for a, b in pairwise(widths))
        self.attention = reading(sizes, widths, text_channels)
        self.norm = ModulatedNorm(widths[-1], style_channels)
        self.image = nn.Conv2d(widths[-1], 3, kernel_size=3, padding=1)

    def forward(self, noise: Tensor, condition: Condition) -> Tensor:
        condition = self.text(condition)
        style = self.style(noise, condition)
        x = self.start(style).view(noise.shape[0], *self.sizes[0], -1).permute(0, 3, 1, 2)  # channels last
        first, *sizes = maps_at(self.canvas, self.sizes)
        x = fitted(x, first)
        for up, own, size in zip(self.ups, self.sizes[1:], sizes, strict=True):
            x = grown(up(x, style), size)
            if (side := str(min(own))) in self.attention:
                x = self.attention[side](x, condition)
        return self.image(F.silu(self.norm(x, style))).tanh()


class Trunk(nn.Module):
    """Residual blocks from images (N, 3, H, W) to features (N, out_channels, 8, 8), or the second of `map_sizes`."""

    def __init__(self, resolution: Resolution, base_channels: int, max_channels: int):
        super().__init__()
        sizes = map_sizes(resolution)[:0:-1]
        widths = [channels_at(size, resolution, base_channels, max_channels) for size in sizes]
        self.image = nn.Conv2d(3, widths[0], kernel_size=3, padding=1)
        self.downs = nn.Sequential(*(DownBlock(a, b) for a, b in pairwise(widths)))
        self.out_channels = widths[-1]

    def forward(self, image: Tensor) -> Tensor:
        return self.downs(self.image(image))


class WordTrunk(nn.Module):
    """Features (N, in, 8, 8) read the words of a caption, then come down to (N, out, 4, 4)."""

    def __init__(self, in_channels: int, out_channels: int, text_channels: int):
        super().__init__()
        self.attention = WordAttention(in_channels, text_channels)
        self.down = DownBlock(in_channels, out_channels)

    def forward(self, x: Tensor, condition: Condition) -> Tensor:
        return F.leaky_relu(self.down(self.attention(x, condition)), 0.2)


class Reader(nn.Module):
    """What discriminators and encoders share: `features` sees the image alone, `words` and `head` join the caption."""

    any_size = True
    head: nn.Module

    def __init__(
        self, resolution: Resolution, text_channels: int, text: nn.Module, base_channels: int, max_channels: int
    ):
        super().__init__()
        self.text = text
        self.features = Trunk(resolution, base_channels, max_channels)
        self.size = map_sizes(resolution)[0]
        self.out_channels = channels_at(self.size, resolution, base_channels, max_channels)
        self.words = WordTrunk(self.features.out_channels, self.out_channels, text_channels)

    def read(self, features: Tensor, condition: Condition) -> Any:
        condition = self.text(condition)
        return self.head(self.words(features, condition), condition)

    def forward(self, image: Tensor, condition: Condition) -> Any:
        return self.read(self.features(image), condition)


class Discriminator(Reader):
    """Images and Condition to logits (N,), higher = real and matching."""

    logits = Reader.read  # (features, condition): one image is judged against several captions cheaply

    def __init__(
        self,
        resolution: Resolution,
        text_channels: int,
        text: nn.Module,
        base_channels: int = 32,
        max_channels: int = 256,
        head_channels: int = 256,
    ):
        super().__init__(resolution, text_channels, text, base_channels, max_channels)
        self.head = ProjectionHead(self.out_channels, text_channels, head_channels, self.size)


class Encoder(Reader):
    """Images and Condition to the posterior's mean and log variance, each (N, latent_channels)."""

    def __init__(
        self,
        resolution: Resolution,
        latent_channels: int,
        text_channels: int,
        text: nn.Module,
        base_channels: int = 32,
        max_channels: int = 256,
        head_channels: int = 256,
    ):
        super().__init__(resolution, text_channels, text, base_channels, max_channels)
        self.head = PosteriorHead(self.out_channels, text_channels, head_channels, latent_channels, self.size)
