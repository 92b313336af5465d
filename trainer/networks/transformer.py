"""A transformer family: images are tokens, one a patch of pixels (ViT, Dosovitskiy et al. 2021; GAT, Lee et al. 2025).

Attention is the fused one wherever PyTorch has it. That cannot be differentiated twice: for exact penalties the GAN has
it written out (`trainer.objectives.penalties.differentiable_twice`).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.batch import Condition
from trainer.errors import UserError
from trainer.networks.layers import START, PosteriorHead, Style, TextVector
from trainer.networks.sized import fitted, maps_at
from trainer.networks.vit import Block, StyledBlock, image_of, patches_of, scaled, styled, tokens_of
from trainer.size import Resolution, Size


class ToImage(nn.Module):
    """Styled tokens, rows and columns of them, to images (N, out_channels, H, W): a square of pixels of each."""

    def __init__(self, channels: int, style_channels: int, patch: int, out_channels: int):
        super().__init__()
        self.patch = patch
        self.style = scaled(nn.Linear(style_channels, 2 * channels))
        self.pixels = scaled(nn.Linear(channels, out_channels * patch**2))

    def forward(self, x: Tensor, style: Tensor, tokens: Size) -> Tensor:
        scale, shift = self.style(style)[:, None].chunk(2, 2)
        return image_of(self.pixels(styled(x, scale, shift)), self.patch, tokens)


def placed(position: Tensor, own: Size, tokens: Size) -> Tensor:
    """(T, C), what is learned of places, for so many rows and columns of tokens instead of its own."""
    if tokens == own:
        return position
    return fitted(position.T.unflatten(1, own)[None], tokens)[0].flatten(1).T


class Generator(nn.Module):
    """Latent (N, latent_channels) and Condition to images (N, 3, H, W) in [-1, 1]; `text` as in `dcgan.Generator`.

    levels: images that are made on the way, the last of them behind the last block and the others evenly before it;
    with `all_levels` forward gives them as (N, levels * 3, H, W), for an objective that judges them all.
    The last layer is linear, and nothing is cut off while it trains, or nobody would call it back.
    channels: of an image, if it is a map of a tokenizer's latents; these have no bounds: limit=None cuts nothing off.
    """

    any_size = True
    canvas: Size | None = None

    def __init__(
        self,
        resolution: Resolution,
        latent_channels: int,
        text_channels: int,
        text: nn.Module,
        width: int = 192,
        depth: int = 6,
        num_heads: int = 3,
        patch: int = 4,
        style_channels: int = 256,
        levels: int = 1,
        channels: int = 3,
        limit: float | None = 1.0,
    ):
        super().__init__()
        if not 1 <= levels <= depth:
            raise UserError(f"levels={levels}: expected 1 to depth={depth}, as each is behind a block of its own")
        tokens, branches = tokens_of(resolution, patch), 3 * depth
        self.latent_channels, self.sizes, self.tokens = latent_channels, [Size.of(resolution)], tokens
        self.patch = self.divisor = patch
        self.text = text
        self.style = Style(latent_channels, text_channels, style_channels)
        self.levels, self.channels, self.limit = levels, channels, limit
        self.position = nn.Parameter(torch.randn(math.prod(tokens), width))
        self.start = scaled(nn.Linear(style_channels, width))
        self.blocks = nn.ModuleList(
            StyledBlock(width, style_channels, text_channels, num_heads, branches) for _ in range(depth)
        )
        self.images = nn.ModuleList(ToImage(width, style_channels, patch, channels) for _ in range(levels))
        self.behind = [depth * (level + 1) // levels for level in range(levels)]  # blocks before each image

    def forward(self, noise: Tensor, condition: Condition, all_levels: bool = False) -> Tensor:
        condition = self.text(condition)
        style = self.style(noise, condition)
        style = F.layer_norm(style, style.shape[1:])
        words = F.layer_norm(condition.tokens, condition.tokens.shape[-1:])
        tokens = tokens_of(maps_at(self.canvas, self.sizes)[-1], self.patch)
        x = placed(self.position, self.tokens, tokens) + self.start(style)[:, None]
        made = []
        for number, block in enumerate(self.blocks, start=1):
            x = block(x, style, words, condition.mask)
            if number in self.behind and (all_levels or number == len(self.blocks)):
                made.append(self.images[self.behind.index(number)](x, style, tokens))
        image = torch.cat(made, 1)
        return image if self.training or self.limit is None else image.clamp(-self.limit, self.limit)


class Trunk(nn.Module):
    """Images (N, in_channels, H, W) to tokens (N, T + num_classes, C), class tokens first."""

    def __init__(
        self,
        resolution: Resolution,
        in_channels: int,
        width: int,
        depth: int,
        num_heads: int,
        patch: int,
        num_classes: int,
    ):
        super().__init__()
        self.patch, self.tokens = patch, tokens_of(resolution, patch)
        self.divisor = patch
        self.image = scaled(nn.Linear(in_channels * patch**2, width))
        self.position = nn.Parameter(torch.randn(math.prod(self.tokens), width) / 2)
        self.classes = nn.Parameter(torch.randn(num_classes, width)) if num_classes else None
        self.blocks = nn.Sequential(*(Block(width, num_heads, 2 * depth) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)

    def forward(self, image: Tensor) -> Tensor:
        position = placed(self.position, self.tokens, tokens_of(Size(*image.shape[2:]), self.patch))
        x = self.image(patches_of(image, self.patch)) + position
        if self.classes is not None:
            x = torch.cat([self.classes.expand(len(x), -1, -1), x], 1)
        return self.norm(self.blocks(x))


class Discriminator(nn.Module):
    """Images and Condition to logits (N,), or (N, num_logits) of several class tokens; higher = real and matching.

    A class token h of E channels gives w . h + <h, V text> / sqrt(E) (projection, Miyato & Koyama 2018).
    `features` sees the image alone, `logits` joins the caption, so one image is judged against several cheaply.
    levels: images that are judged together, (N, levels * channels, H, W).
    """

    any_size = True

    def __init__(
        self,
        resolution: Resolution,
        text_channels: int,
        text: nn.Module,
        width: int = 192,
        depth: int = 6,
        num_heads: int = 3,
        patch: int = 4,
        num_logits: int = 1,
        levels: int = 1,
        channels: int = 3,
    ):
        super().__init__()
        self.text = text
        self.levels = levels
        self.features = Trunk(resolution, channels * levels, width, depth, num_heads, patch, num_logits)
        self.caption = TextVector(text_channels, width)
        self.unconditional = nn.Linear(width, 1)
        self.num_logits = num_logits

    def logits(self, features: Tensor, condition: Condition) -> Tensor:
        caption = self.caption(self.text(condition))
        h = features[:, : self.num_logits]
        match = (h * caption[:, None]).sum(2) / math.sqrt(h.shape[2])
        logits: Tensor = self.unconditional(h).squeeze(2) + match
        return logits.squeeze(1) if self.num_logits == 1 else logits

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
        width: int = 192,
        depth: int = 6,
        num_heads: int = 3,
        patch: int = 4,
        head_channels: int = 256,
    ):
        super().__init__()
        self.text = text
        self.features = Trunk(resolution, 3, width, depth, num_heads, patch, num_classes=0)
        self.head = PosteriorHead(width, text_channels, head_channels, latent_channels)

    def forward(self, image: Tensor, condition: Condition) -> Any:
        tokens = self.features(image).transpose(1, 2).unflatten(2, Size(*image.shape[2:]).over(self.features.patch))
        return self.head(F.adaptive_avg_pool2d(tokens, START), self.text(condition))
