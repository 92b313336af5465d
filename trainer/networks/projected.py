"""Projected discriminator (Sauer et al. 2021): it sees images through the frozen features of a pretrained network."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer import noise
from trainer.batch import Condition
from trainer.networks.layers import START, TextVector
from trainer.networks.sized import fitted
from trainer.size import Resolution, Size

SIZES = (16, 8, 4, 4)  # that the four maps are brought to, fine to coarse: heads know no backbone


class Discriminator(nn.Module):
    """Images and Condition to logits (N, 4), or (N, 5) with a head on the pixels; higher = real and matching.

    Four maps h_l of the backbone, fine to coarse, are mixed by fixed random projections: across channels (CCM),
    c_l = A_l h_l by 1x1 convolutions, then across scales (CSM), m_l = B_l * (c_l + up(m_l+1)) by 3x3 ones. Each m_l has
    a trunk with spectral norm, and a head that reads the caption by projection (Miyato & Koyama 2018).
    backbone: a function that loads a network whose `see(images)` gives the maps. It is asked for them when the first
    image is judged, and neither it nor the projections are among the parameters or in a checkpoint.
    pixels: width of a trunk of its own on the image, for what such features do not see; 0 for none. Images of other
    sizes than `resolution` are brought to it there, and to a square for the backbone: stretched, real ones like drawn.

    `perceive` is the frozen part, so penalties are of what it returns and no gradient goes through the backbone twice.
    """

    any_size = True

    def __init__(
        self,
        resolution: Resolution,
        text_channels: int,
        text: nn.Module,
        backbone: Callable[[], Any],
        mixed_channels: int = 64,
        head_channels: int = 128,
        pixels: int = 0,
    ):
        super().__init__()
        self.text = text
        self.mixed_channels = mixed_channels
        self.shapes = [(mixed_channels, size, size) for size in SIZES] + [(3, *Size.of(resolution))] * bool(pixels)
        widths = [mixed_channels] * len(SIZES) + [pixels] * bool(pixels)
        self.trunks = nn.ModuleList(
            Trunk(Size(*size), channels, width, head_channels)
            for (channels, *size), width in zip(self.shapes, widths, strict=True)
        )
        self.heads = nn.ModuleList(Head(text_channels, head_channels) for _ in self.shapes)
        self.load = backbone
        self.frozen: list[Any] = []  # the backbone and its projections, in a list: no part of this network

    def perceive(self, image: Tensor) -> Tensor:
        """All that the heads see of images (N, 3, H, W), frozen, as rows (N, K)."""
        if not self.frozen:
            self.frozen = [self.load().to(image.device), {}]
        slow = image.device.type == "cpu"  # differentiates depthwise convolutions in bf16 three times as slowly
        with torch.autocast(image.device.type, enabled=False) if slow else nullcontext():
            maps = self.frozen[0].see(image)
        with torch.autocast(image.device.type, enabled=False):  # not every device resizes bf16 with antialiasing
            seen = self.mixed([each.float() for each in maps])
        if len(self.shapes) > len(SIZES):
            seen.append(fitted(image.float(), Size(*self.shapes[-1][1:])))
        return torch.cat([each.flatten(1) for each in seen], 1)

    def mixed(self, maps: list[Tensor]) -> list[Tensor]:
        """m_l of the maps h_l, fine to coarse, at `SIZES`."""
        weights = self.frozen[1]
        seen: list[Tensor] = []
        for level in reversed(range(len(SIZES))):
            h = maps[level]
            across = F.conv2d(h, self.projection(weights, f"channels/{level}", h.shape[1], 1, h))
            joined = sized(across, SIZES[level]) + (sized(seen[0], SIZES[level]) if seen else 0)
            scales = self.projection(weights, f"scales/{level}", self.mixed_channels, 3, h)
            seen.insert(0, F.conv2d(joined, scales, padding=1))
        return seen

    def projection(self, known: dict[str, Tensor], name: str, in_channels: int, kernel: int, like: Tensor) -> Tensor:
        """Random weights (mixed_channels, in, k, k) of deviation 1 / sqrt(fan_in): the same wherever they are made."""
        if name not in known:
            rows = torch.arange(self.mixed_channels)
            weight = noise.normal(0, f"projected/{name}", rows, in_channels * kernel**2)
            weight = weight.view(self.mixed_channels, in_channels, kernel, kernel) / math.sqrt(in_channels * kernel**2)
            known[name] = weight.to(like.device)
        return known[name]

    def features(self, seen: Tensor) -> list[Tensor]:
        """What the trunks make of `perceive`'s rows, without the caption."""
        parts = seen.split([math.prod(shape) for shape in self.shapes], 1)
        maps = [part.unflatten(1, shape) for part, shape in zip(parts, self.shapes, strict=True)]
        return [trunk(each) for trunk, each in zip(self.trunks, maps, strict=True)]

    def logits(self, features: list[Tensor], condition: Condition) -> Tensor:
        condition = self.text(condition)
        return torch.stack([head(h, condition) for head, h in zip(self.heads, features, strict=True)], 1)

    def forward(self, image: Tensor, condition: Condition) -> Tensor:
        return self.logits(self.features(self.perceive(image)), condition)


class Trunk(nn.Module):
    """Maps (N, in, *size) by strided convolutions to (N, out_channels)."""

    def __init__(self, size: Size, in_channels: int, channels: int, out_channels: int):
        super().__init__()
        self.downs = nn.ModuleList()
        while min(size) >= 2 * min(START):
            self.downs.append(SpectralConv2d(in_channels, channels, kernel_size=4, stride=2, padding=1))
            size, in_channels, channels = size.over(2), channels, min(2 * channels, 256)
        self.last = SpectralConv2d(in_channels, out_channels, kernel_size=size)

    def forward(self, x: Tensor) -> Tensor:
        for down in self.downs:
            x = F.leaky_relu(down(x), 0.2)
        return F.leaky_relu(self.last(x), 0.2).flatten(1)


class Head(nn.Module):
    """w . h + <h, V text> / sqrt(E) of h (N, E) and Condition: (N,)."""

    def __init__(self, text_channels: int, channels: int):
        super().__init__()
        self.caption = TextVector(text_channels, channels)
        self.unconditional = nn.Linear(channels, 1)

    def forward(self, h: Tensor, condition: Condition) -> Tensor:
        match = (h * self.caption(condition)).sum(1) / math.sqrt(h.shape[1])
        return self.unconditional(h).squeeze(1) + match


class SpectralConv2d(nn.Conv2d):
    """A convolution by W / sigma(W), W as (out, in * k * k), sigma its largest singular value (Miyato et al. 2018).

    sigma = |W v| along v of 64 power iterations, all anew in each call by squaring W W^T: nothing has to be kept, so
    that a step does not hang on how often it was called before, and ranks and micro-batches agree.
    """

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight / spectral_norm(self.weight.flatten(1)), self.bias)


def spectral_norm(weight: Tensor) -> Tensor:
    """() largest singular value of (M, N), differentiable twice along its singular vectors, which are constants."""
    with torch.autocast(weight.device.type, enabled=False):
        weight = weight.float()
        with torch.no_grad():
            power = weight @ weight.T
            for _ in range(6):
                power = power / power.norm()
                power = power @ power
            left = F.normalize(power @ torch.ones(len(power), device=power.device), dim=0)
            right = F.normalize(left @ weight, dim=0)
        return left @ weight @ right


def sized(x: Tensor, size: int) -> Tensor:
    """(N, C, size, size), bilinearly; antialiased where that is smaller."""
    if x.shape[-1] == size:
        return x
    return F.interpolate(x, size=(size, size), mode="bilinear", antialias=x.shape[-1] > size)
