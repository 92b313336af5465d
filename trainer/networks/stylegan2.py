"""StyleGAN2 (Karras et al. 2020) with text: mapping network, modulated convolutions, a sum of images, no aliases."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from trainer import noise
from trainer.batch import Condition
from trainer.errors import UserError
from trainer.networks.filtered_trunk import Trunk
from trainer.networks.layers import (
    PosteriorHead,
    ProjectionHead,
    TextVector,
    WordAttention,
    channels_at,
    grown,
    map_sizes,
)
from trainer.networks.modulation import Enlarge, StyledConv, StyledImage, normalized
from trainer.networks.residual import READING
from trainer.networks.sized import fitted, maps_at
from trainer.size import Resolution, Size

MEAN_OF = 64  # latents in the mean style of a caption


class Mapping(nn.Module):
    """Latent and caption, each at unit mean square, to a style: (N, Z), Condition -> (N, style_channels)."""

    def __init__(self, latent_channels: int, text_channels: int, style_channels: int, num_layers: int):
        super().__init__()
        self.text = TextVector(text_channels, style_channels)
        widths = [latent_channels + style_channels, *[style_channels] * num_layers]
        layers = [(nn.Linear(a, b), nn.LeakyReLU(0.2)) for a, b in pairwise(widths)]
        self.layers = nn.Sequential(*(part for pair in layers for part in pair))

    def forward(self, z: Tensor, condition: Condition) -> Tensor:
        return self.layers(torch.cat([normalized(z), normalized(self.text(condition))], 1))

    def mean(self, z: Tensor, condition: Condition) -> Tensor:
        """(N, style_channels), the mean of each caption's styles over latents z (M, Z)."""
        text = normalized(self.text(condition))
        joined = [normalized(z).expand(len(text), -1, -1), text[:, None].expand(-1, len(z), -1)]
        return self.layers(torch.cat(joined, 2)).mean(1)


class Block(nn.Module):
    """(N, in, H, W) -> (N, out, *size), of two styled convolutions, whose pixels may then read the words.

    size: (2H, 2W), or one more, by which the map grows between the two. own: that of the resolution it is made for.
    """

    def __init__(
        self, in_channels: int, out_channels: int, style_channels: int, text_channels: int, own: Size, noise: bool
    ):
        super().__init__()
        self.up = StyledConv(in_channels, out_channels, style_channels, up=True, noise=noise)
        self.conv = StyledConv(out_channels, out_channels, style_channels, noise=noise)
        self.attention = WordAttention(out_channels, text_channels) if min(own) in READING else None
        self.image = StyledImage(out_channels, style_channels)

    def forward(
        self, x: Tensor, styles: tuple[Tensor, ...], noise: tuple[Tensor | None, ...], condition: Condition, size: Size
    ) -> tuple[Tensor, Tensor]:
        """Maps, and what they add to the image."""
        x = self.conv(grown(self.up(x, styles[0], noise[0]), size), styles[1], noise[1])
        if self.attention is not None:
            x = self.attention(x, condition)
        return x, self.image(x, styles[1])


def sizes_of_convs(sizes: list[Size]) -> list[Size]:
    """Of the maps that each convolution makes, of maps of these sizes."""
    return [sizes[0], *(size for a, b in pairwise(sizes) for size in (Size(2 * a.height, 2 * a.width), b))]


def noise_map(values: Tensor, size: Size) -> Tensor:
    """(N, 1, *size) of values (N, K): the first of them, or where there are too few some of them again."""
    again = -(-math.prod(size) // values.shape[1])
    return values.repeat(1, again)[:, : math.prod(size)].unflatten(1, (1, *size))


class Synthesis(nn.Module):
    """Styles of each convolution (N, num_styles, S), noise maps and Condition to images (N, 3, H, W) in [-1, 1].

    noise: for each convolution (N, 1, H, W) of its size, or None. The image is the sum of what every size has to say,
    enlarged by the filter. While it trains nothing bounds it but the discriminator, as in the paper: a tanh saturates,
    and from there no gradient leads back.
    """

    canvas: Size | None = None

    def __init__(self, sizes: list[Size], widths: list[int], style_channels: int, text_channels: int, noise_up_to: int):
        super().__init__()
        self.sizes, noisy = sizes, [min(size) <= noise_up_to for size in sizes]
        self.constant = nn.Parameter(torch.randn(widths[0], *sizes[0]))
        self.conv = StyledConv(widths[0], widths[0], style_channels, noise=noisy[0])
        self.image = StyledImage(widths[0], style_channels)
        self.blocks = nn.ModuleList(
            Block(a, b, style_channels, text_channels, size, has_noise)
            for (a, b), size, has_noise in zip(pairwise(widths), sizes[1:], noisy[1:], strict=True)
        )
        self.enlarge = Enlarge()

    def forward(self, styles: Tensor, noise: list[Tensor | None], condition: Condition) -> Tensor:
        each = styles.unbind(1)
        first, *sizes = maps_at(self.canvas, self.sizes)
        x = self.conv(fitted(self.constant[None], first).expand(styles.shape[0], -1, -1, -1), each[0], noise[0])
        image = self.image(x, each[0])
        for number, (block, size) in enumerate(zip(self.blocks, sizes, strict=True)):
            of_it = slice(1 + 2 * number, 3 + 2 * number)
            x, more = block(x, each[of_it], tuple(noise[of_it]), condition, size)
            image = grown(self.enlarge(image), Size(*more.shape[2:])) + more
        return image if self.training else image.clamp(-1, 1)


class Generator(nn.Module):
    """Latent (N, latent_channels) and Condition to images (N, 3, H, W) in [-1, 1]; `text` as in `dcgan.Generator`.

    A latent has what the style is made of, latent_channels values of the configuration, and behind them the noise maps
    of all convolutions of up to `noise_up_to` pixels of the shorter side, so that a seed is one image in every program.
    The attribute latent_channels counts all of it. 0 leaves noise out, as a VAE must.
    truncation: at less than 1 a style is drawn towards the mean style of its caption (Karras et al. 2019, fig. 8): less
    varied, more typical images. An attribute, 1 while training.
    """

    any_size = True
    canvas: Size | None = None
    draws: Tensor
    truncation = 1.0

    def __init__(
        self,
        resolution: Resolution,
        latent_channels: int,
        text_channels: int,
        text: nn.Module,
        base_channels: int = 32,
        max_channels: int = 256,
        style_channels: int = 256,
        mapping_layers: int = 2,
        noise_up_to: int = 16,
    ):
        super().__init__()
        if mapping_layers < 1:
            raise UserError(f"generator.mapping_layers={mapping_layers}: expected at least 1")
        sizes = map_sizes(resolution)
        widths = [channels_at(size, resolution, base_channels, max_channels) for size in sizes]
        self.z_channels, self.num_styles = latent_channels, 2 * len(sizes) - 1
        self.sizes = sizes
        self.noise_sizes = [size if min(size) <= noise_up_to else Size(0, 0) for size in sizes_of_convs(sizes)]
        self.latent_channels = latent_channels + sum(map(math.prod, self.noise_sizes))
        self.text = text
        self.mapping = Mapping(latent_channels, text_channels, style_channels, mapping_layers)
        self.synthesis = Synthesis(sizes, widths, style_channels, text_channels, noise_up_to)
        draws = noise.normal(0, "mean style", torch.arange(MEAN_OF), latent_channels)
        self.register_buffer("draws", draws, persistent=False)

    def unpacked(self, latent: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """z (N, z_channels) and the noise map (N, 1, H, W) of each convolution, None where it has none."""
        z, *flat = latent.split([self.z_channels, *map(math.prod, self.noise_sizes)], 1)
        sizes = sizes_of_convs(maps_at(self.canvas, self.sizes))
        return z, [noise_map(part, size) if part.shape[1] else None for part, size in zip(flat, sizes, strict=True)]

    def forward(self, latent: Tensor, condition: Condition) -> Tensor:
        z, noise_maps = self.unpacked(latent)
        condition = self.text(condition)
        style = self.mapping(z, condition)
        if self.truncation != 1:
            style = self.mapping.mean(self.draws, condition).lerp(style, self.truncation)
        return self.synthesis(style[:, None].expand(-1, self.num_styles, -1), noise_maps, condition)


class Discriminator(nn.Module):
    """Images and Condition to logits (N,), higher = real and matching.

    group: neighbours of a batch that the minibatch deviation compares; 1 leaves it out.
    """

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
        self.features = Trunk(resolution, base_channels, max_channels, group if group > 1 else 0)
        self.head = ProjectionHead(self.features.out_channels, text_channels, head_channels, self.features.size)

    def logits(self, features: Tensor, condition: Condition) -> Tensor:
        """(N,) of what `features` returned: one image is judged against several captions cheaply."""
        return self.head(features, self.text(condition))

    def forward(self, image: Tensor, condition: Condition) -> Tensor:
        return self.logits(self.features(image), condition)


class Encoder(nn.Module):
    """Images and Condition to the posterior's mean and log variance, each (N, latent_channels)."""

    any_size = True

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
        super().__init__()
        self.text = text
        self.features = Trunk(resolution, base_channels, max_channels)
        width, size = self.features.out_channels, self.features.size
        self.head = PosteriorHead(width, text_channels, head_channels, latent_channels, size)

    def forward(self, image: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        return self.head(self.features(image), self.text(condition))
