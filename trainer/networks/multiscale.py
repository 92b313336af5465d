"""Discriminators of patches at several scales (pix2pixHD, Wang et al. 2018), each of which reads the caption."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.batch import Condition
from trainer.errors import UserError
from trainer.networks.layers import TextVector, map_sizes, repeated
from trainer.size import Resolution, Size

SMALLEST = 4  # pixels of the shorter side of the last map of the coarsest scale


class Trunk(nn.Module):
    """Strided convolutions from images (N, C, H, W) to maps, each half as large; the last of them is mixed once more.

    Without norms, which would let images of a batch know of each other (PatchGAN, Isola et al. 2017).
    """

    def __init__(self, image_channels: int, widths: Sequence[int]):
        super().__init__()
        self.image = nn.Conv2d(image_channels, widths[0], kernel_size=3, padding=1)
        self.downs = nn.ModuleList(
            nn.Conv2d(a, b, kernel_size=4, stride=2, padding=1) for a, b in pairwise(widths)
        )
        self.mix = nn.Conv2d(widths[-1], widths[-1], kernel_size=3, padding=1)

    def forward(self, image: Tensor) -> list[Tensor]:
        found = [F.leaky_relu(self.image(image), 0.2)]
        for down in self.downs:
            found.append(F.leaky_relu(down(found[-1]), 0.2))
        return [*found[1:], F.leaky_relu(self.mix(found[-1]), 0.2)]


class Head(nn.Module):
    """Each place of a map (N, C, h, w) and the caption to logits (N, h * w), row by row: w . h + <h, V text> / sqrt(C)

    (projection, Miyato & Koyama 2018).
    """

    def __init__(self, channels: int, text_channels: int):
        super().__init__()
        self.text = TextVector(text_channels, channels)
        self.out = nn.Conv2d(channels, 1, kernel_size=1)

    def forward(self, x: Tensor, condition: Condition) -> Tensor:
        match = (x * self.text(condition)[:, :, None, None]).sum(1) / math.sqrt(x.shape[1])
        return (self.out(x).squeeze(1) + match).flatten(1)


class Discriminator(nn.Module):
    """Images (N, image_channels, H, W) and Condition to logits (N, num_scales, P), higher = real and matching.

    Scale i sees them 2^i times smaller, by weights of its own. The logits of the coarser ones are repeated, so that
    each scale counts alike. image_channels: 3, or 6 where an image is seen beside its source (`objective.sees_source`).
    num_downs: halvings within a scale; a patch of the first is 22 pixels wide with 2, 46 with 3.
    """

    any_size = True

    def __init__(
        self,
        resolution: Resolution,
        text_channels: int,
        text: nn.Module,
        image_channels: int = 3,
        num_scales: int = 2,
        num_downs: int = 3,
        base_channels: int = 32,
        max_channels: int = 256,
    ):
        super().__init__()
        size = Size.of(resolution)
        if min(num_scales, num_downs) < 1 or min(size) >> (num_scales - 1 + num_downs) < SMALLEST:
            raise UserError(
                f"discriminator.num_scales={num_scales}, num_downs={num_downs}: expected at least 1 of each, and a sum "
                f"of at most {len(map_sizes(size))} at {size} pixels: a last map of {SMALLEST}"
            )
        widths = [min(max_channels, base_channels << i) for i in range(num_downs + 1)]
        self.text, self.image_channels, self.per_scale = text, image_channels, num_downs + 1
        self.trunks = nn.ModuleList(Trunk(image_channels, widths) for _ in range(num_scales))
        self.heads = nn.ModuleList(Head(widths[-1], text_channels) for _ in range(num_scales))

    def features(self, image: Tensor) -> list[Tensor]:
        """All maps of all scales, which feature matching compares."""
        found: list[Tensor] = []
        for number, trunk in enumerate(self.trunks):
            found += trunk(F.avg_pool2d(image, 2**number) if number else image)
        return found

    def logits(self, features: list[Tensor], condition: Condition) -> Tensor:
        """Of what `features` returned."""
        condition = self.text(condition)
        last = features[self.per_scale - 1 :: self.per_scale]
        found = [head(each, condition) for head, each in zip(self.heads, last, strict=True)]
        return torch.stack([repeated(each, found[0].shape[1]) for each in found], 1)

    def forward(self, image: Tensor, condition: Condition) -> Tensor:
        return self.logits(self.features(image), condition)
