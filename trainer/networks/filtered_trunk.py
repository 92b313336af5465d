"""Residual blocks that filter before they halve, from images to features (Karras et al. 2020)."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.networks.layers import channels_at, map_sizes
from trainer.networks.modulation import LowPass
from trainer.size import Resolution


class DownBlock(nn.Module):
    """(N, in, H, W) -> (N, out, H/2, W/2): skip + two 3x3 convolutions, each branch filtered before it is halved."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, in_channels, kernel_size=3, padding=1)
        self.filter = LowPass(padding=2)
        self.conv2 = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=2)
        self.shrink = LowPass(stride=2)
        self.skip = nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.skip(self.shrink(x))
        x = self.conv2(self.filter(F.leaky_relu(self.conv1(x), 0.2)))
        return (skip + F.leaky_relu(x, 0.2)) * 0.5**0.5


class MinibatchDeviation(nn.Module):
    """Joins how much neighbours of a batch differ, one map: (N, C, H, W) -> (N, C + 1, H, W) (Karras et al. 2018).

    The standard deviation of each value over samples that follow each other in the batch, `group` of them, or as many
    of these as divide it; its mean over channels and places. A group never parts (`Objective.together`), so that ranks
    and micro-batches see what one process sees.
    """

    def __init__(self, group: int):
        super().__init__()
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        group = next(size for size in range(self.group, 0, -1) if len(x) % size == 0)
        groups = x.float().unflatten(0, (-1, group))
        deviation = (groups.var(1, unbiased=False) + 1e-8).sqrt().flatten(1).mean(1)
        maps = deviation.repeat_interleave(group).to(x.dtype)[:, None, None, None]
        return torch.cat([x, maps.expand(-1, 1, *x.shape[2:])], 1)


class Trunk(nn.Module):
    """Residual blocks from images (N, 3, H, W) to features (N, out_channels, *size), size as of `map_sizes`.

    group: of the deviation, or 0.
    """

    def __init__(self, resolution: Resolution, base_channels: int, max_channels: int, group: int = 0):
        super().__init__()
        sizes = map_sizes(resolution)[::-1]
        widths = [channels_at(size, resolution, base_channels, max_channels) for size in sizes]
        self.image = nn.Conv2d(3, widths[0], kernel_size=1)
        self.downs = nn.Sequential(*(DownBlock(a, b) for a, b in pairwise(widths)))
        self.deviation = MinibatchDeviation(group) if group else None
        self.out_channels, self.size = widths[-1], sizes[-1]
        self.last = nn.Conv2d(widths[-1] + bool(group), widths[-1], kernel_size=3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.downs(F.leaky_relu(self.image(image), 0.2))
        if self.deviation is not None:
            x = self.deviation(x)
        return F.leaky_relu(self.last(x), 0.2)
