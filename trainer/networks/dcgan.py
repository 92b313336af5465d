"""DCGAN (Radford et al. 2016) with text: strided convolutions, the caption modulates each generator layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.batch import Condition
from trainer.errors import UserError
from trainer.networks.enlarging import Enlarge
from trainer.networks.layers import (
    ModulatedNorm,
    PosteriorHead,
    ProjectionHead,
    Style,
    channels_at,
    grown,
    map_sizes,
    repeated,
)
from trainer.networks.sized import fitted, maps_at
from trainer.size import Resolution, Size

UPSAMPLING: dict[str, Callable[[int, int], nn.Module]] = {  # (N, a, H, W) -> (N, b, 2H, 2W)
    "transposed": lambda a, b: nn.ConvTranspose2d(a, b, kernel_size=4, stride=2, padding=1),
    "nearest": Enlarge,
}


class Generator(nn.Module):
    """Latent (N, latent_channels) and Condition to images (N, 3, H, W) in [-1, 1].

    text: the part of the text encoder that trains with this network (`torch.nn.Identity` for a frozen encoder).
    patch: 2 or 4 ends at 1/2 or 1/4 of the resolution and makes squares of so many pixels of each place (sub-pixel
    convolution, Shi et al. 2016): most of a narrow generator's time goes into its largest maps. None: the most.
    upsampling: "nearest" resizes, then convolves 3x3, and leaves none of the checkerboards of "transposed" convolutions
    (Odena et al. 2016), which are DCGAN's; `compress` with `fold` makes it one convolution of the smaller map.
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
        patch: int | None = 1,
        upsampling: str = "transposed",
    ):
        super().__init__()
        if upsampling not in UPSAMPLING:
            raise UserError(f"upsampling={upsampling}: expected {' or '.join(UPSAMPLING)}")
        size = Size.of(resolution)
        patch = patch or next(each for each in (4, 2, 1) if min(size) >= 16 * each or each == 1)
        if patch not in (1, 2, 4) or min(size) < 16 * patch:
            raise UserError(f"patch={patch} at {size} pixels: expected 1, 2 or 4, at most 1/16 of the resolution")
        end = size.over(patch)
        self.sizes = map_sizes(end)
        widths = [channels_at(size, end, base_channels, max_channels) for size in self.sizes]
        self.latent_channels = latent_channels
        self.text = text
        self.style = Style(latent_channels, text_channels, style_channels)
        self.start = nn.Linear(style_channels, widths[0] * math.prod(self.sizes[0]))
        self.norms = nn.ModuleList(ModulatedNorm(width, style_channels) for width in widths)
        self.ups = nn.ModuleList(UPSAMPLING[upsampling](a, b) for a, b in pairwise(widths))
        self.image = nn.Conv2d(widths[-1], 3 * patch**2, kernel_size=3, padding=1)
        self.patch = self.divisor = patch

    def forward(self, noise: Tensor, condition: Condition) -> Tensor:
        style = self.style(noise, self.text(condition))
        x = self.start(style).view(noise.shape[0], *self.sizes[0], -1).permute(0, 3, 1, 2)  # channels last
        first, *sizes = maps_at(self.canvas and self.canvas.over(self.patch), self.sizes)
        x = fitted(x, first)
        for norm, up, size in zip(self.norms[:-1], self.ups, sizes, strict=True):
            x = grown(up(F.leaky_relu(norm(x, style), 0.2)), size)
        image = self.image(F.leaky_relu(self.norms[-1](x, style), 0.2))
        return (shuffled(image, self.patch) if self.patch > 1 else image).tanh()


def shuffled(image: Tensor, patch: int) -> Tensor:
    """(N, 3 * patch^2, H, W) to (N, 3, patch * H, patch * W), as `F.pixel_shuffle`.

    By whole rows: where an index has divisions, the compiler leaves vectors.
    """
    squares = image.unflatten(1, (-1, patch, patch))
    rows = torch.stack(squares.unbind(3), -1).flatten(-2)  # (N, 3, patch, H, patch * W)
    return torch.stack(rows.unbind(2), -2).flatten(-3, -2)


class Trunk(nn.Module):
    """Strided convolutions from images (N, 3, H, W) to features (N, out_channels, *size), size as of `map_sizes`.

    Where `early` is set, it is a list of these and of the first so many maps, from half the resolution down.
    """

    def __init__(self, resolution: Resolution, base_channels: int, max_channels: int):
        super().__init__()
        sizes = map_sizes(resolution)[::-1]
        widths = [channels_at(size, resolution, base_channels, max_channels) for size in sizes]
        self.image = nn.Conv2d(3, widths[0], kernel_size=3, padding=1)
        self.downs = nn.ModuleList(
            nn.Conv2d(a, b, kernel_size=4, stride=2, padding=1) for a, b in pairwise(widths)
        )
        self.early, self.widths, self.out_channels, self.size = 0, widths, widths[-1], sizes[-1]

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        maps = [F.leaky_relu(self.image(image), 0.2)]
        for down in self.downs:
            maps.append(F.leaky_relu(down(maps[-1]), 0.2))
        return [maps[-1], *maps[1 : 1 + self.early]] if self.early else maps[-1]


class Reader(nn.Module):
    """What discriminators and encoders share: `features` sees the image alone, `head` joins the caption."""

    any_size = True
    head: nn.Module

    def __init__(self, resolution: Resolution, text: nn.Module, base_channels: int, max_channels: int):
        super().__init__()
        self.text = text
        self.features = Trunk(resolution, base_channels, max_channels)

    def read(self, features: Tensor, condition: Condition) -> Any:
        return self.head(features, self.text(condition))

    def forward(self, image: Tensor, condition: Condition) -> Any:
        return self.read(self.features(image), condition)


class Discriminator(Reader):
    """Images and Condition to logits (N,), higher = real and matching.

    patches: of so many maps, from half the resolution down to 8 pixels at most, each place is judged as well, by a head
    that reads no caption (PatchGAN, Isola et al. 2017). Logits are (N, 1 + maps, P) then, P the places of the largest:
    those of the whole image and of smaller maps are repeated, so that each map counts as much as the image.
    """

    def __init__(
        self,
        resolution: Resolution,
        text_channels: int,
        text: nn.Module,
        base_channels: int = 32,
        max_channels: int = 256,
        head_channels: int = 256,
        patches: int = 0,
    ):
        super().__init__(resolution, text, base_channels, max_channels)
        if patches < 0:
            raise UserError(f"discriminator.patches={patches}: expected a number of maps, 0 for none")
        self.features.early = patches = min(patches, len(self.features.widths) - 2)
        self.head = ProjectionHead(self.features.out_channels, text_channels, head_channels, self.features.size)
        self.patches = nn.ModuleList(PatchHead(width) for width in self.features.widths[1 : 1 + patches])

    def logits(self, features: Any, condition: Condition) -> Tensor:
        """Of what `features` returned: one image is judged against several captions cheaply."""
        if not self.patches:
            return self.matched(features, condition)
        maps = features[1:]
        found = [head(each) for head, each in zip(self.patches, maps, strict=True)]
        places = found[0].shape[1]
        found.insert(0, self.matched(features, condition)[:, None])
        return torch.stack([repeated(each, places) for each in found], 1)

    def matched(self, features: Any, condition: Condition) -> Tensor:
        """(N,) of the whole image, the one that reads the caption."""
        return self.read(features[0] if self.patches else features, condition)

    def forward(self, image: Tensor, condition: Condition) -> Tensor:
        return self.logits(self.features(image), condition)


class PatchHead(nn.Module):
    """A logit of each place and its neighbours: (N, C, H, W) -> (N, H * W)."""

    def __init__(self, channels: int):
        super().__init__()
        self.mix = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.out = nn.Conv2d(channels, 1, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.leaky_relu(self.mix(x), 0.2)).flatten(1)


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
        super().__init__(resolution, text, base_channels, max_channels)
        width, size = self.features.out_channels, self.features.size
        self.head = PosteriorHead(width, text_channels, head_channels, latent_channels, size)
