"""AttnGAN (Xu et al. 2018): an image drawn in stages, each twice as large, whose pixels look at the words anew."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.batch import Condition
from trainer.errors import UserError
from trainer.networks.dcgan import Trunk
from trainer.networks.layers import ModulatedNorm, ProjectionHead, TextVector, channels_at, grown, map_sizes
from trainer.networks.residual import UpBlock
from trainer.networks.sized import fitted, maps_at
from trainer.size import Resolution, Size


def stage_sizes(resolution: Resolution, stages: int) -> list[Size]:
    """Sizes of the images, the last of them `resolution`; as many as there are from 16 pixels on."""
    if stages < 1:
        raise UserError(f"stages={stages}: expected at least 1")
    sizes = map_sizes(resolution)
    return sizes[-min(stages, len(sizes) - 2) :]


def packed(images: Sequence[Tensor]) -> Tensor:
    """Images (N, 3, H, W) of several sizes as one tensor, (N, 3, sum of H * W)."""
    return torch.cat([image.flatten(2) for image in images], 2)


def unpacked(pyramid: Tensor, sizes: Sequence[Size]) -> list[Tensor]:
    parts = pyramid.split([*map(math.prod, sizes)], 2)
    return [part.unflatten(2, size) for part, size in zip(parts, sizes, strict=True)]


def smaller(image: Tensor, sizes: Sequence[Size]) -> list[Tensor]:
    """An image (N, 3, H, W) at each size: means of squares."""
    return [F.avg_pool2d(image, 1 << ((image.shape[2] // size.height).bit_length() - 1)) for size in sizes]


class Augmentation(nn.Module):
    """Conditioning augmentation (Zhang et al. 2017): the caption's vector as a Gaussian.

    Condition -> mean and log variance, both (N, caption_channels). Its KL to N(0, I) joins the
    generator's loss, so that captions near each other overlap.
    """

    def __init__(self, text_channels: int, caption_channels: int):
        super().__init__()
        self.text = TextVector(text_channels, 2 * caption_channels)

    def forward(self, condition: Condition) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.text(condition).chunk(2, 1)
        return mean, log_variance


class WordContext(nn.Module):
    """What each place of a map reads of the words, F^attn: (N, C, H, W), Condition -> (N, C, H, W) (eq. 2).

    e' = U e for words e; c_j = sum_i softmax_i(h_j . e'_i / sqrt(C)) e'_i for places h_j, without the paper's biases.
    """

    def __init__(self, channels: int, text_channels: int):
        super().__init__()
        self.words = nn.Linear(text_channels, channels, bias=False)

    def forward(self, x: Tensor, condition: Condition) -> Tensor:
        words = self.words(F.layer_norm(condition.tokens, condition.tokens.shape[-1:]))  # (N, L, C)
        places = x.flatten(2).transpose(1, 2)
        score = places @ words.transpose(1, 2) / math.sqrt(words.shape[2])  # (N, H*W, L)
        read = score.masked_fill(~condition.mask[:, None], -torch.inf).softmax(2) @ words
        return read.transpose(1, 2).unflatten(2, x.shape[2:])


class ResidualBlock(nn.Module):
    """(N, C, H, W), (N, S) -> (N, C, H, W): skip + two modulated 3x3 convolutions."""

    def __init__(self, channels: int, style_channels: int):
        super().__init__()
        self.norm1, self.norm2 = (ModulatedNorm(channels, style_channels) for _ in range(2))
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, kernel_size=3, padding=1) for _ in range(2))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        inner = self.conv1(F.silu(self.norm1(x, style)))
        return (x + self.conv2(F.silu(self.norm2(inner, style)))) * 0.5**0.5


class First(nn.Module):
    """F_0: a style (N, S) to maps (N, C, *size), of the last of `sizes` or another one."""

    def __init__(self, sizes: list[Size], widths: list[int], style_channels: int):
        super().__init__()
        self.sizes = sizes
        self.start = nn.Linear(style_channels, widths[0] * math.prod(sizes[0]))
        self.ups = nn.ModuleList(UpBlock(a, b, style_channels) for a, b in pairwise(widths))

    def forward(self, style: Tensor, size: Size) -> Tensor:
        first, *sizes = maps_at(size, self.sizes)
        x = fitted(self.start(style).unflatten(1, (*self.sizes[0], -1)).permute(0, 3, 1, 2), first)
        for up, each in zip(self.ups, sizes, strict=True):
            x = grown(up(x, style), each)
        return x


class Refinement(nn.Module):
    """F_i (eq. 1): maps and what they read of the words to maps twice as large, (N, in, H, W) -> (N, out, 2H, 2W)."""

    def __init__(self, in_channels: int, out_channels: int, style_channels: int, text_channels: int, num_blocks: int):
        super().__init__()
        self.context = WordContext(in_channels, text_channels)
        self.join = nn.Conv2d(2 * in_channels, in_channels, kernel_size=1)
        self.blocks = nn.ModuleList(ResidualBlock(in_channels, style_channels) for _ in range(num_blocks))
        self.up = UpBlock(in_channels, out_channels, style_channels)

    def forward(self, x: Tensor, style: Tensor, condition: Condition) -> Tensor:
        x = self.join(torch.cat([x, self.context(x, condition)], 1))
        for block in self.blocks:
            x = block(x, style)
        return self.up(x, style)


class ToImage(nn.Module):
    """G_i: maps to an image, (N, C, H, W), (N, S) -> (N, 3, H, W) in [-1, 1]."""

    def __init__(self, channels: int, style_channels: int):
        super().__init__()
        self.norm = ModulatedNorm(channels, style_channels)
        self.conv = nn.Conv2d(channels, 3, kernel_size=3, padding=1)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        return self.conv(F.silu(self.norm(x, style))).tanh()


class Generator(nn.Module):
    """Latent (N, latent_channels) and Condition to images (N, 3, H, W) in [-1, 1]; `text` as in `dcgan.Generator`.

    A latent has latent_channels values of the configuration, behind them caption_channels for the caption's Gaussian;
    the attribute counts both. stages: images, each half as large as the next. Without the paper's batch norm, by which
    an image would hang on those beside it. num_blocks: residual blocks of a stage.
    """

    any_size = True
    canvas: Size | None = None

    def __init__(
        self,
        resolution: Resolution,
        latent_channels: int,
        text_channels: int,
        text: nn.Module,
        base_channels: int = 16,
        max_channels: int = 128,
        style_channels: int = 128,
        caption_channels: int = 64,
        stages: int = 3,
        num_blocks: int = 1,
    ):
        super().__init__()
        self.sizes = stage_sizes(resolution, stages)
        sizes = map_sizes(resolution)
        widths = {size: channels_at(size, resolution, base_channels, max_channels) for size in sizes}
        self.latent_channels = latent_channels + caption_channels
        self.split = [latent_channels, caption_channels]
        self.text = text
        self.augmentation = Augmentation(text_channels, caption_channels)
        self.style = nn.Sequential(nn.Linear(self.latent_channels, style_channels), nn.LeakyReLU(0.2))
        small = sizes[: sizes.index(self.sizes[0]) + 1]
        self.first = First(small, [widths[size] for size in small], style_channels)
        self.refinements = nn.ModuleList(
            Refinement(widths[a], widths[b], style_channels, text_channels, num_blocks) for a, b in pairwise(self.sizes)
        )
        self.images = nn.ModuleList(ToImage(widths[size], style_channels) for size in self.sizes)

    @property
    def drawn(self) -> list[Size]:
        """Sizes of the images that it draws now."""
        return maps_at(self.canvas, self.sizes)

    def maps(self, latent: Tensor, condition: Condition) -> tuple[list[Tensor], Tensor]:
        """Of each stage (N, C, H, W), and the style (N, S)."""
        condition = self.text(condition)
        z, draw = latent.split(self.split, 1)
        mean, log_variance = self.augmentation(condition)
        style = self.style(torch.cat([z, mean + (0.5 * log_variance).exp() * draw], 1))
        first, *sizes = self.drawn
        found = [self.first(style, first)]
        for refine, size in zip(self.refinements, sizes, strict=True):
            found.append(grown(refine(found[-1], style, condition), size))
        return found, style

    def stages(self, latent: Tensor, condition: Condition) -> list[Tensor]:
        """The images of all stages, the smallest first."""
        maps, style = self.maps(latent, condition)
        return [image(each, style) for image, each in zip(self.images, maps, strict=True)]

    def forward(self, latent: Tensor, condition: Condition) -> Tensor:
        maps, style = self.maps(latent, condition)
        return self.images[-1](maps[-1], style)


class Discriminator(nn.Module):
    """A discriminator for each stage: their images, `packed`, and Condition to logits (N, stages), higher = real.

    An image (N, 3, H, W) alone is seen at all sizes. A logit has what it thinks of the image and of image and caption
    (projection head), where the paper has one of each.
    """

    any_size = True
    canvas: Size | None = None  # of packed images

    def __init__(
        self,
        resolution: Resolution,
        text_channels: int,
        text: nn.Module,
        base_channels: int = 16,
        max_channels: int = 128,
        head_channels: int = 128,
        stages: int = 3,
    ):
        super().__init__()
        self.sizes = stage_sizes(resolution, stages)
        self.text = text
        trunks = {str(min(size)): Trunk(size, base_channels, max_channels) for size in self.sizes}
        heads = {k: ProjectionHead(t.out_channels, text_channels, head_channels, t.size) for k, t in trunks.items()}
        self.trunks, self.heads = nn.ModuleDict(trunks), nn.ModuleDict(heads)

    def features(self, image: Tensor) -> list[Tensor]:
        """Of each stage, as of its trunk."""
        if image.dim() == 4:
            images = smaller(image, maps_at(Size(*image.shape[2:]), self.sizes))
        else:
            images = unpacked(image, maps_at(self.canvas, self.sizes))
        return [trunk(each) for trunk, each in zip(self.trunks.values(), images, strict=True)]

    def logits(self, features: list[Tensor], condition: Condition) -> Tensor:
        """(N, stages): one image is judged against several captions cheaply."""
        condition = self.text(condition)
        return torch.stack([head(x, condition) for head, x in zip(self.heads.values(), features, strict=True)], 1)

    def forward(self, image: Tensor, condition: Condition) -> Tensor:
        return self.logits(self.features(image), condition)
