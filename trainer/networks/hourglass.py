"""Image to image by way of small maps, and what draws with that: a chain of denoisings, an untrained network."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer import noise
from trainer.batch import Condition
from trainer.networks.layers import ModulatedNorm, TextVector, channels_at, grown, map_sizes
from trainer.networks.residual import DownBlock, UpBlock, reading
from trainer.size import Resolution, Size


class Hourglass(nn.Module):
    """(N, in_channels, H, W) and Condition to images (N, 3, H, W) in [-1, 1]: down to 4 to 7 pixels and up again
    (U-Net, Ronneberger et al. 2015), each map added to that of its size on the way up.

    `text` as in `dcgan.Generator`.
    """

    def __init__(
        self,
        resolution: Resolution,
        text_channels: int,
        text: nn.Module,
        in_channels: int = 3,
        base_channels: int = 16,
        max_channels: int = 128,
        style_channels: int = 128,
    ):
        super().__init__()
        sizes = map_sizes(resolution)
        widths = [channels_at(size, resolution, base_channels, max_channels) for size in sizes]
        self.text = text
        self.style = TextVector(text_channels, style_channels)
        self.start = nn.Conv2d(in_channels, widths[-1], kernel_size=3, padding=1)
        self.downs = nn.ModuleList(DownBlock(a, b) for a, b in pairwise(widths[::-1]))
        self.ups = nn.ModuleList(UpBlock(a, b, style_channels) for a, b in pairwise(widths))
        self.attention = reading(sizes, widths, text_channels)
        self.norm = ModulatedNorm(widths[-1], style_channels)
        self.image = nn.Conv2d(widths[-1], 3, kernel_size=3, padding=1)

    def forward(self, x: Tensor, condition: Condition) -> Tensor:
        condition = self.text(condition)
        style = self.style(condition)
        maps = [self.start(x)]
        for down in self.downs:
            maps.append(down(maps[-1]))
        x = maps.pop()
        for up in self.ups:
            skip = maps.pop()
            x = grown(up(x, style), Size(*skip.shape[2:])) + skip
            if (side := str(min(x.shape[2:]))) in self.attention:
                x = self.attention[side](x, condition)
        return self.image(F.silu(self.norm(x, style))).tanh()


class Chain(nn.Module):
    """A walk between images and noisy images (GSN, Bengio et al. 2014): x <- denoiser(x + sigma n), `steps` times.

    It begins at grey. Latent (N, steps * 3 * H * W), the n of all steps, and Condition to images (N, 3, H, W).
    """

    def __init__(self, denoiser: nn.Module, resolution: Resolution, steps: int, sigma: float):
        super().__init__()
        self.denoiser = denoiser
        self.steps, self.sigma = steps, sigma
        self.shape = (3, *Size.of(resolution))
        self.latent_channels = steps * math.prod(self.shape)

    def forward(self, latent: Tensor, condition: Condition) -> Tensor:
        image = torch.zeros((), device=latent.device, dtype=latent.dtype)
        for normals in latent.unflatten(1, (self.steps, *self.shape)).unbind(1):
            image = self.denoiser(image + self.sigma * normals, condition)
        return image


class FixedInput(nn.Module):
    """A network on one input z for ever, uniform in [0, 0.1], and little noise: f(z + jitter n).

    Latent n (N, in_channels * H * W) and Condition to images (N, 3, H, W).
    """

    z: Tensor

    def __init__(self, network: nn.Module, resolution: Resolution, in_channels: int = 8, jitter: float = 1 / 30):
        super().__init__()
        self.network = network
        self.jitter = jitter
        shape = (in_channels, *Size.of(resolution))
        self.latent_channels = math.prod(shape)
        z = noise.uniform(0, "z", torch.zeros(1, dtype=torch.int64), self.latent_channels) / 10
        self.register_buffer("z", z.view(shape))

    def forward(self, latent: Tensor, condition: Condition) -> Tensor:
        image: Any = self.network(self.z + self.jitter * latent.view(-1, *self.z.shape), condition)
        return image
