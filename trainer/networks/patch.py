"""PatchGAN (Isola et al. 2017): a discriminator whose every logit judges one patch of the image."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn


class Discriminator(nn.Module):
    """Images (N, 3, H, W) to logits (N, H / 2^num_downs, W / 2^num_downs), higher = real; it reads no caption.

    Strided convolutions without norms, which would let images of a batch know of each other.
    """

    any_size = True

    def __init__(self, num_downs: int = 2, base_channels: int = 32, max_channels: int = 256):
        super().__init__()
        widths = [min(max_channels, base_channels << i) for i in range(num_downs + 1)]
        self.image = nn.Conv2d(3, widths[0], kernel_size=3, padding=1)
        self.downs = nn.ModuleList(
            nn.Conv2d(a, b, kernel_size=4, stride=2, padding=1) for a, b in pairwise(widths)
        )
        self.mix = nn.Conv2d(widths[-1], widths[-1], kernel_size=3, padding=1)
        self.out = nn.Conv2d(widths[-1], 1, kernel_size=1)

    def forward(self, image: Tensor) -> Tensor:
        x = F.leaky_relu(self.image(image), 0.2)
        for down in self.downs:
            x = F.leaky_relu(down(x), 0.2)
        return self.out(F.leaky_relu(self.mix(x), 0.2)).squeeze(1)
