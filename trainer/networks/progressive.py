"""Progressive growing (Karras et al. 2018) with text: layers of larger maps join one size after the other, faded in."""

from __future__ import annotations

import math
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from trainer.batch import Condition
from trainer.errors import UserError
from trainer.networks.enlarging import enlarged
from trainer.networks.filtered_trunk import MinibatchDeviation
from trainer.networks.layers import ModulatedNorm, ProjectionHead, Style, channels_at, grown, map_sizes
from trainer.networks.modulation import normalized
from trainer.networks.sized import fitted, maps_at
from trainer.size import Resolution, Size


def sizes_and_widths(resolution: Resolution, base_channels: int, max_channels: int) -> tuple[list[Size], list[int]]:
    """Of `map_sizes`."""
    sizes = map_sizes(resolution)
    return sizes, [channels_at(size, resolution, base_channels, max_channels) for size in sizes]


def parts_of(level: float) -> tuple[int, float]:
    """The largest size that is there, in doublings of the smallest, and how much of it, in (0, 1]."""
    last = math.ceil(level)
    return last, 1.0 if last == level else level - (last - 1)


class Block(nn.Module):
    """(N, in, H, W), (N, S) -> (N, out, 2H, 2W): nearest resizing, two 3x3 convolutions, each with a modulated norm."""

    def __init__(self, in_channels: int, out_channels: int, style_channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1)
        self.norm1, self.norm2 = (ModulatedNorm(out_channels, style_channels) for _ in range(2))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        x = F.leaky_relu(self.norm1(enlarged(x, self.conv1), style), 0.2)
        return F.leaky_relu(self.norm2(self.conv2(x), style), 0.2)


class Generator(nn.Module):
    """Latent (N, latent_channels) and Condition to images (N, 3, H, W) in [-1, 1]; `text` as in `dcgan.Generator`.

    Images always have the full size: of a level below, they are enlarged. The style of latent and caption modulates the
    norms of pixels, where the paper reads the latent once. While it trains nothing is cut off.
    level: doublings from the smallest map that are there; 2.3 from 4 pixels: 16 pixels, and 0.3 of what the layers of
    32 say; None for all. An attribute, too, which `trainer.objectives.progressive.Progressive` sets.
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
        level: float | None = None,
    ):
        super().__init__()
        sizes, widths = sizes_and_widths(resolution, base_channels, max_channels)
        self.latent_channels, self.sizes = latent_channels, sizes
        self.most = len(sizes) - 1
        self.level = float(self.most) if level is None else level
        if not 0 <= self.level <= self.most:
            raise UserError(f"generator.level={level}: expected 0 to {self.most} at {sizes[-1]} pixels")
        self.text = text
        self.style = Style(latent_channels, text_channels, style_channels)
        self.start = nn.Linear(style_channels, widths[0] * math.prod(sizes[0]))
        self.norm: nn.Module = ModulatedNorm(widths[0], style_channels)
        self.blocks = nn.ModuleList(Block(a, b, style_channels) for a, b in pairwise(widths))
        self.images = nn.ModuleList(nn.Conv2d(width, 3, kernel_size=1) for width in widths)

    def forward(self, noise: Tensor, condition: Condition) -> Tensor:
        style = self.style(normalized(noise), self.text(condition))
        first, *sizes = maps_at(self.canvas, self.sizes)
        x = fitted(self.start(style).unflatten(1, (*self.sizes[0], -1)).permute(0, 3, 1, 2), first)
        before = x = F.leaky_relu(self.norm(x, style), 0.2)
        last, share = parts_of(self.level)
        for block, size in zip(self.blocks[:last], sizes, strict=False):
            before, x = x, grown(block(x, style), size)
        image = self.images[last](x)
        if share < 1:
            image = F.interpolate(self.images[last - 1](before), size=image.shape[2:]).lerp(image, share)
        image = F.interpolate(image, size=sizes[-1]) if last < self.most else image
        return image if self.training else image.clamp(-1, 1)


class Trunk(nn.Module):
    """Images (N, 3, H, W) to features (N, out_channels, *size), by the layers of `level`, as of `Generator`.

    An image is first made as small as the largest map that is there; what is faded in reads it, what was there before
    reads its half.
    """

    def __init__(self, resolution: Resolution, base_channels: int, max_channels: int, group: int):
        super().__init__()
        sizes, widths = sizes_and_widths(resolution, base_channels, max_channels)
        self.size, self.level = sizes[0], float(len(sizes) - 1)
        self.images = nn.ModuleList(nn.Conv2d(3, width, kernel_size=1) for width in widths)
        self.blocks = nn.ModuleList(DownBlock(b, a) for a, b in pairwise(widths))
        self.deviation = MinibatchDeviation(group)
        self.last = nn.Conv2d(widths[0] + 1, widths[0], kernel_size=3, padding=1)
        self.out_channels = widths[0]

    def read(self, image: Tensor, number: int) -> Tensor:
        small = F.avg_pool2d(image, 1 << len(self.blocks) - number)
        return F.leaky_relu(self.images[number](small), 0.2)

    def forward(self, image: Tensor) -> Tensor:
        last, share = parts_of(self.level)
        x = self.read(image, last)
        for number in reversed(range(last)):
            x = self.blocks[number](x)
            if number == last - 1 and share < 1:
                x = self.read(image, number).lerp(x, share)
        return F.leaky_relu(self.last(self.deviation(x)), 0.2)


class DownBlock(nn.Module):
    """(N, in, H, W) -> (N, out, H/2, W/2): two 3x3 convolutions, then means of squares."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, in_channels, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(F.leaky_relu(self.conv2(F.leaky_relu(self.conv1(x), 0.2)), 0.2), 2)


class Discriminator(nn.Module):
    """Images and Condition to logits (N,), higher = real and matching; group: as of `stylegan2.Discriminator`."""

    any_size = True

    def __init__(
        self,
        resolution: Resolution,
        text_channels: int,
        text: nn.Module,
        base_channels: int = 32,
        max_channels: int = 256,
        head_channels: int = 256,
        group: int = 4,
    ):
        super().__init__()
        if group < 1:
            raise UserError(f"discriminator.group={group}: expected at least 1")
        self.text, self.group = text, group
        self.features = Trunk(resolution, base_channels, max_channels, group)
        self.head = ProjectionHead(self.features.out_channels, text_channels, head_channels, self.features.size)

    def logits(self, features: Tensor, condition: Condition) -> Tensor:
        """(N,) of what `features` returned: one image is judged against several captions cheaply."""
        return self.head(features, self.text(condition))

    def forward(self, image: Tensor, condition: Condition) -> Tensor:
        return self.logits(self.features(image), condition)
