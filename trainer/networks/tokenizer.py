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
from trainer.networks.layers import ModulatedNorm, TextVector, channels_at
from trainer.networks.quantizers import Passed
from trainer.networks.residual import READING, DownBlock, UpBlock, reading
from trainer.size import Resolution, Size


def sizes_between(size: int, resolution: Resolution) -> list[Size]:
    """Maps whose shorter side has from `size` pixels to those of `resolution`, each twice the one before. UserError if
    there are none."""
    found = [Size.of(resolution)]
    while not any(side % 2 for side in found[-1]) and min(found[-1]) >= 4:
        found.append(found[-1].over(2))
    sides = [min(each) for each in found]
    if size not in sides[1:]:
        halves = ", ".join(map(str, sides[1:])) or "an even resolution"
        raise UserError(f"size={size} at {found[0]} pixels: expected one of their halves, {halves}")
    return found[sides.index(size) :: -1]


class Encoder(nn.Module):
    """Images (N, 3, H, W) to a map (N, out_channels, *size), by residual blocks that halve it; size: its shorter side.

    Each pixel of the map is brought to unit variance over its channels: a bottleneck that rounds would else begin with
    one code for all. divisor: of the sides of images of other sizes, whose maps are halved as often.
    """

    any_size = True

    def __init__(self, resolution: Resolution, size: int, base_channels: int = 32, max_channels: int = 256):
        super().__init__()
        sizes = sizes_between(size, resolution)[::-1]
        widths = [channels_at(each, resolution, base_channels, max_channels) for each in sizes]
        self.image = nn.Conv2d(3, widths[0], kernel_size=3, padding=1)
        self.downs = nn.Sequential(*(DownBlock(a, b) for a, b in pairwise(widths)))
        self.size, self.out_channels = sizes[-1], widths[-1]
        self.divisor = 1 << len(self.downs)

    def forward(self, image: Tensor) -> Tensor:
        x = F.leaky_relu(self.downs(self.image(image)), 0.2)
        return F.layer_norm(x.movedim(1, -1), x.shape[1:2]).movedim(-1, 1)


class Decoder(nn.Module):
    """A map (N, in_channels, *size) and a Condition to images (N, 3, H, W) in [-1, 1].

    What the caption says need not be in the codes (TA-TiTok, Kim et al. 2025): pixels attend to its words at up to 16
    pixels, and its whole modulates every block. `text` as in `dcgan.Generator`. Resizing is nearest, then convolutions.
    """

    any_size = True

    def __init__(
        self,
        resolution: Resolution,
        size: int,
        text_channels: int,
        text: nn.Module,
        base_channels: int = 32,
        max_channels: int = 256,
        style_channels: int = 128,
    ):
        super().__init__()
        sizes = sizes_between(size, resolution)
        widths = [channels_at(each, resolution, base_channels, max_channels) for each in sizes]
        self.text = text
        self.style = TextVector(text_channels, style_channels)
        self.ups = nn.ModuleList(UpBlock(a, b, style_channels) for a, b in pairwise(widths))
        self.attention = reading(sizes, widths, text_channels, {size, *READING})
        self.sides = [str(min(each)) for each in sizes]  # by which maps of any other size are called, too
        self.norm = ModulatedNorm(widths[-1], style_channels)
        self.image = nn.Conv2d(widths[-1], 3, kernel_size=3, padding=1)
        self.size, self.in_channels = sizes[0], widths[0]

    def forward(self, x: Tensor, condition: Condition) -> Tensor:
        condition = self.text(condition)
        style = F.silu(self.style(condition))
        x = self.attention[self.sides[0]](x, condition)
        for up, side in zip(self.ups, self.sides[1:], strict=True):
            x = up(x, style)
            if side in self.attention:
                x = self.attention[side](x, condition)
        return self.image(F.silu(self.norm(x, style))).tanh()


class Tokenizer(nn.Module):
    """Encoder, bottleneck and decoder as one network. bottleneck: one of `trainer.networks.quantizers`.

    `num_codes` and `size`: of the map of codes, (N, *size) int64 below num_codes.
    """

    any_size = True
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
        self.size, self.num_codes = Size.of(self.encoder.size), int(self.bottleneck.num_codes)

    def num_draws(self, image: Tensor) -> int:
        """Normals that the bottleneck needs for each of images (N, 3, H, W)."""
        return int(self.bottleneck.num_draws(*Size(*image.shape[2:]).over(self.encoder.divisor)))

    def forward(self, image: Tensor, condition: Condition, normals: Tensor) -> tuple[Tensor, Passed, Tensor]:
        """Reconstruction (N, 3, H, W), what passed the bottleneck, and the map before it.

        normals: (N, num_draws(image)).
        """
        features = self.narrow(self.encoder(image))
        passed = self.bottleneck(features, normals)
        return self.decoder(self.widen(passed.latent), condition), passed, features

    def encode(self, image: Tensor) -> Tensor:
        """Codes (N, *size) of images (N, 3, H, W) in [-1, 1]."""
        return self.bottleneck.encode(self.narrow(self.encoder(image)))

    def decode(self, codes: Tensor, condition: Condition) -> Tensor:
        """Images (N, 3, H, W) in [-1, 1] of codes (N, *size)."""
        return self.decoder(self.widen(self.bottleneck.decode(codes)), condition)

    def latents(self, image: Tensor) -> Tensor:
        """(N, C, *size) of images (N, 3, H, W), float32: what the bottleneck rounds, or its Gaussians' means."""
        return self.bottleneck.latents(self.narrow(self.encoder(image)))

    def images(self, latents: Tensor, condition: Condition) -> Tensor:
        """Images (N, 3, H, W) in [-1, 1] of latents (N, C, *size), rounded to codes where there are any."""
        return self.decoder(self.widen(self.bottleneck.nearest(latents)), condition)
