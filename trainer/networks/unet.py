"""A generator that starts from an image: a U-Net (Ronneberger et al. 2015) whose way up is modulated by the caption."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.batch import Condition
from trainer.networks.layers import (
    ModulatedNorm,
    Style,
    WordAttention,
    channels_at,
    grown,
    map_sizes,
    of_source,
)
from trainer.networks.residual import Block, DownBlock, UpBlock
from trainer.networks.sized import fitted
from trainer.size import Resolution, Size

if TYPE_CHECKING:
    from trainer.tasks.base import Task

READING = 2  # of the smallest maps: there pixels read words


class Bounded(torch.autograd.Function):
    """Within [-1, 1]. Of what has gone too far the gradient passes that brings it back, and none that drives it on:

    an adversarial one would do so without end, as nothing is seen of it, until whole images stand at a bound for good.
    """

    @staticmethod
    def forward(ctx: Any, image: Tensor) -> Tensor:
        ctx.save_for_backward(image)
        return image.clamp(-1, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (image,) = ctx.saved_tensors
        return gradient.masked_fill((image.abs() > 1) & (gradient * image < 0), 0)


def bounded(image: Tensor) -> Tensor:
    """As `Bounded` where there are gradients."""
    return Bounded.apply(image) if image.requires_grad else image.clamp(-1, 1)


class Bend(nn.Module):
    """Maps of the source (N, C, h, w) moved to where the image wants them, which maps of the image (N, C, h, w) say.

    y(p) = x(p + f(p)) by bilinear sampling, f read from both by a convolution that begins at 0 (appearance flow, Zhou
    et al. 2016; deformable skip connections, Siarohin et al. 2018, whose affine moves of body parts it makes free).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.flow = nn.Conv2d(2 * channels, 2, kernel_size=3, padding=1, bias=False)
        nn.init.zeros_(self.flow.weight)

    def forward(self, source: Tensor, wanted: Tensor) -> Tensor:
        height, width = source.shape[2:]
        down, right = (
            (torch.arange(size, device=source.device) + 0.5) * (2 / size) - 1 for size in (height, width)
        )
        still = torch.stack([right.expand(height, width), down[:, None].expand(height, width)], -1)
        moved = still + self.flow(torch.cat([source, wanted], 1)).float().permute(0, 2, 3, 1)
        return F.grid_sample(source.float(), moved, padding_mode="border", align_corners=False).to(source.dtype)


class Generator(nn.Module):
    """Latent (N, latent_channels) and Condition with a source to images (N, 3, H, W) in [-1, 1].

    task: what a source is (`trainer.tasks`): the network adds to its `start`, and `keep` puts back what is known. text:
    as in `dcgan.Generator`. resolution: H and W, of which larger pictures are tiles. It comes down to 4 to 7
    pixels, where what a generator without a source would begin with is added: what the caption wants, and where.
    deformable: skip connections move what they carry, see `Bend`, for sources whose things stand elsewhere or in
    another pose.
    """

    any_size = True

    def __init__(
        self,
        task: Task,
        resolution: Resolution,
        latent_channels: int,
        text_channels: int,
        text: nn.Module,
        base_channels: int = 32,
        max_channels: int = 256,
        style_channels: int = 128,
        deformable: bool = False,
    ):
        super().__init__()
        sizes = map_sizes(resolution)[::-1]
        widths = [channels_at(size, resolution, base_channels, max_channels) for size in sizes]
        self.task, self.resolution, self.latent_channels = task, resolution, latent_channels
        self.smallest = sizes[-1]
        self.text = text
        self.style = Style(latent_channels, text_channels, style_channels)
        self.source = of_source(task.source_channels, widths[0])
        self.start = nn.Linear(style_channels, widths[-1] * math.prod(sizes[-1]))
        self.downs = nn.ModuleList(DownBlock(a, b) for a, b in pairwise(widths))
        self.ups = nn.ModuleList(UpBlock(b, a, style_channels) for a, b in reversed([*pairwise(widths)]))
        self.joins = nn.ModuleList(Block(width, style_channels) for width in widths[-2::-1])
        self.bends = nn.ModuleList(Bend(width) for width in widths[-2::-1]) if deformable else None
        reading = widths[::-1][:READING]
        self.attention = nn.ModuleList(WordAttention(width, text_channels) for width in reading)
        self.norm = ModulatedNorm(widths[0], style_channels)
        self.image = nn.Conv2d(widths[0], 3, kernel_size=3, padding=1)
        nn.init.zeros_(self.image.weight)  # it begins as the task's start

    def forward(self, latent: Tensor, condition: Condition) -> Tensor:
        source: Any = condition.source
        condition = self.text(condition)
        style = self.style(latent, condition)
        start = self.task.start(source)
        large = source
        if source.shape[2:] != start.shape[2:]:  # a mark is the same everywhere
            large = torch.cat([start, source[:, 3:, :1, :1].expand(-1, -1, *start.shape[2:])], 1)
        x = self.maps(self.source(large), style, condition)
        image = bounded(start + self.image(F.silu(self.norm(x, style))))
        return bounded(self.task.keep(image, source))

    def maps(self, x: Tensor, style: Tensor, condition: Condition) -> Tensor:
        """Down and up again: (N, C, H, W) of as many channels as it has at full size."""
        maps = [x]
        for down in self.downs:
            maps.append(down(maps[-1]))
        wanted = self.start(style).view(-1, *self.smallest, maps[-1].shape[1]).permute(0, 3, 1, 2)
        x = maps.pop()
        x = self.attention[0](x + fitted(wanted, Size(*x.shape[2:])), condition)
        for number, (up, join) in enumerate(zip(self.ups, self.joins, strict=True), start=1):
            skip = maps.pop()
            x = grown(up(x, style), Size(*skip.shape[2:]))
            if self.bends is not None:
                skip = self.bends[number - 1](skip, x)
            x = join((x + skip) * 0.5**0.5, style)
            if number < len(self.attention):
                x = self.attention[number](x, condition)
        return x
