"""An autoencoder with a spatial bottleneck: image -> (N, C, h, w) -> codes -> image; the decoder reads the caption.

Convolutions see one image, and norms one pixel: no statistic crosses samples.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from trainer.batch import Condition
from trainer.errors import UserError
from trainer.networks.layers import ModulatedNorm, TextVector, WordAttention, channels_at
from trainer.networks.quantizers import Passed
from trainer.networks.residual import READING, DownBlock, UpBlock


def sizes_between(size: int, resolution: int) -> list[int]:
    """Sides of the maps from `size` to `resolution` pixels, each twice the one before. UserError if there are none."""
    found = [resolution]
    while found[-1] % 2 == 0 and found[-1] >= 4:
        found.append(found[-1] // 2)
    if size not in found[1:]:
        halves = ", ".join(map(str, found[1:])) or "an even resolution"
        raise UserError(f"size={size} at {resolution} pixels: expected one of their halves, {halves}")
    return found[found.index(size) :: -1]


class Encoder(nn.Module):
    """Images (N, 3, H, W) to a map (N, out_channels, size, size), by residual blocks that halve it.

    Each pixel of the map is brought to unit variance over its channels: a bottleneck that rounds would else begin with
    one code for all.
    """

    def __init__(self, resolution: int, size: int, base_channels: int = 32, max_channels: int = 256):
        super().__init__()
        sizes = sizes_between(size, resolution)[::-1]
        widths = [channels_at(side, resolution, base_channels, max_channels) for side in sizes]
        self.image = nn.Conv2d(3, widths[0], kernel_size=3, padding=1)
        self.downs = nn.Sequential(*(DownBlock(a, b) for a, b in pairwise(widths)))
        self.size, self.out_channels = size, widths[-1]

    def forward(self, image: Tensor) -> Tensor:
        x = F.leaky_relu(self.downs(self.image(image)), 0.2)
        return F.layer_norm(x.movedim(1, -1), x.shape[1:2]).movedim(-1, 1)


class Decoder(nn.Module):
    """A map (N, in_channels, size, size) and a Condition to images (N, 3, H, W) in [-1, 1].

    What the caption says need not be in the codes (TA-TiTok, Kim et al. 2025): pixels attend to its words at up to 16
    pixels, and its whole modulates every block. `text` as in `dcgan.Generator`. Resizing is nearest, then convolutions.
    """

    def __init__(
        self,
        resolution: int,
        size: int,
        text_channels: int,
        text: nn.Module,
        base_channels: int = 32,
        max_channels: int = 256,
        style_channels: int = 128,
    ):
        super().__init__()
        sizes = sizes_between(size, resolution)
        widths = [channels_at(side, resolution, base_channels, max_channels) for side in sizes]
        self.text = text
        self.style = TextVector(text_channels, style_channels)
        self.ups = nn.ModuleList(UpBlock(a, b, style_channels) for a, b in pairwise(widths))
        reading = {size, *READING}
        self.attention = nn.ModuleDict(
            {str(s): WordAttention(w, text_channels) for s, w in zip(sizes, widths, strict=True) if s in reading}
        )
        self.norm = ModulatedNorm(widths[-1], style_channels)
        self.image = nn.Conv2d(widths[-1], 3, kernel_size=3, padding=1)
        self.size, self.in_channels = size, widths[0]

    def forward(self, x: Tensor, condition: Condition) -> Tensor:
        condition = self.text(condition)
        style = F.silu(self.style(condition))
        x = self.attention[str(self.size)](x, condition)
        for up in self.ups:
            x = up(x, style)
            if (size := str(x.shape[-1])) in self.attention:
                x = self.attention[size](x, condition)
        return self.image(F.silu(self.norm(x, style))).tanh()


class Tokenizer(nn.Module):
    """Encoder, bottleneck and decoder as one network. bottleneck: one of `trainer.networks.quantizers`.

    `num_codes` and `size`: of the map of codes, (N, size, size) int64 below num_codes.
    """

    encoder: Any
    bottleneck: Any
    decoder: Any

    def __init__(self, encoder: nn.Module, bottleneck: nn.Module, decoder: nn.Module):
        super().__init__()
        self.encoder, self.bottleneck, self.decoder = encoder, bottleneck, decoder
        self.narrow = nn.Conv2d(self.encoder.out_channels, self.bottleneck.in_channels, kernel_size=1)
        self.widen = nn.Conv2d(self.bottleneck.out_channels, self.decoder.in_channels, kernel_size=3, padding=1)
        if self.encoder.size != self.decoder.size:
            raise UserError(f"autoencoder: the encoder ends at size={self.encoder.size}, the decoder begins at another")
        self.size, self.num_codes = int(self.encoder.size), int(self.bottleneck.num_codes)
        self.num_draws = self.bottleneck.num_draws(self.size, self.size)

    def forward(self, image: Tensor, condition: Condition, normals: Tensor) -> tuple[Tensor, Passed, Tensor]:
        """Reconstruction (N, 3, H, W), what passed the bottleneck, and the map before it; normals (N, num_draws)."""
        features = self.narrow(self.encoder(image))
        passed = self.bottleneck(features, normals)
        return self.decoder(self.widen(passed.latent), condition), passed, features

    def encode(self, image: Tensor) -> Tensor:
        """Codes (N, size, size) of images (N, 3, H, W) in [-1, 1]."""
        return self.bottleneck.encode(self.narrow(self.encoder(image)))

    def decode(self, codes: Tensor, condition: Condition) -> Tensor:
        """Images (N, 3, H, W) in [-1, 1] of codes (N, size, size)."""
        return self.decoder(self.widen(self.bottleneck.decode(codes)), condition)

    def latents(self, image: Tensor) -> Tensor:
        """(N, C, size, size) of images (N, 3, H, W), float32: what the bottleneck rounds, or its Gaussians' means."""
        return self.bottleneck.latents(self.narrow(self.encoder(image)))

    def images(self, latents: Tensor, condition: Condition) -> Tensor:
        """Images (N, 3, H, W) in [-1, 1] of latents (N, C, size, size), rounded to codes where there are any."""
        return self.decoder(self.widen(self.bottleneck.nearest(latents)), condition)
