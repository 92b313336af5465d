"""Blocks of the transformers that see patches of pixels as tokens (ViT, Dosovitskiy et al. 2021)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.errors import UserError
from trainer.networks.layers import START, normed
from trainer.size import Resolution, Size


class Attention(nn.Module):
    """Tokens (N, T, C) read tokens (N, S, D), all or where mask (N, S) is True: (N, T, C).

    depth: number of branches of the network that are added up, by whose root the last weights are scaled.
    """

    def __init__(self, channels: int, read_channels: int, num_heads: int, depth: int):
        super().__init__()
        if channels % num_heads:
            raise UserError(f"width={channels}: expected a multiple of num_heads={num_heads}")
        self.num_heads = num_heads
        self.query = scaled(nn.Linear(channels, channels))
        self.key = scaled(nn.Linear(read_channels, channels, bias=False))  # a bias would cancel in the softmax
        self.value = scaled(nn.Linear(read_channels, channels))
        self.out = scaled(nn.Linear(channels, channels), depth)

    def forward(self, x: Tensor, read: Tensor, mask: Tensor | None = None) -> Tensor:
        query, key, value = (
            each.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for each in (self.query(x), self.key(read), self.value(read))
        )
        mask = None if mask is None else mask[:, None, None, :]
        return self.out(F.scaled_dot_product_attention(query, key, value, mask).transpose(1, 2).flatten(2))


class MLP(nn.Sequential):
    """Each token by itself: (N, T, C) -> (N, T, C)."""

    def __init__(self, channels: int, depth: int, ratio: int = 4):
        widen, narrow = nn.Linear(channels, ratio * channels), nn.Linear(ratio * channels, channels)
        super().__init__(scaled(widen), nn.GELU(), scaled(narrow, depth))


class StyledBlock(nn.Module):
    """x + attention(x), x + attention(words), x + MLP(x), each behind a layer norm that the style scales and shifts.

    y = (1 + scale(s)) * norm(x) + shift(s), adaptive layer norm (Perez et al. 2018). (N, T, C) -> (N, T, C).
    """

    def __init__(self, channels: int, style_channels: int, text_channels: int, num_heads: int, depth: int):
        super().__init__()
        self.style = scaled(nn.Linear(style_channels, 6 * channels))
        self.attention = Attention(channels, channels, num_heads, depth)
        self.words = Attention(channels, text_channels, num_heads, depth)
        self.mlp = MLP(channels, depth)

    def forward(self, x: Tensor, style: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        pairs = self.style(style)[:, None].chunk(6, 2)
        y = styled(x, *pairs[:2])
        x = x + self.attention(y, y)
        x = x + self.words(styled(x, *pairs[2:4]), words, mask)
        return x + self.mlp(styled(x, *pairs[4:]))


class Block(nn.Module):
    """x + attention(norm(x)), x + MLP(norm(x)): (N, T, C) -> (N, T, C)."""

    def __init__(self, channels: int, num_heads: int, depth: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attention = Attention(channels, channels, num_heads, depth)
        self.mlp = MLP(channels, depth)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y)
        return x + self.mlp(self.norm2(x))


def tokens_of(resolution: Resolution, patch: int) -> Size:
    """Rows and columns of tokens."""
    size = Size.of(resolution)
    goes = [each for each in range(1, min(size) // min(START) + 1) if not any(side % each for side in size)]
    if patch not in goes:
        raise UserError(f"patch={patch} at resolution={size}: expected one of {', '.join(map(str, goes))}")
    return size.over(patch)


def patches_of(image: Tensor, patch: int) -> Tensor:
    """(N, C, H, W) to (N, H * W / patch^2, C * patch^2), rows of patches behind each other."""
    return F.pixel_unshuffle(image, patch).flatten(2).transpose(1, 2)


def image_of(patches: Tensor, patch: int, tokens: Size) -> Tensor:
    """The reverse of `patches_of`, channels last in memory. tokens: rows and columns of them."""
    squares = patches.unflatten(2, (-1, patch, patch)).unflatten(1, tokens)  # (N, h, w, C, patch, patch)
    pixels = squares.permute(0, 1, 4, 2, 5, 3).flatten(3, 4).flatten(1, 2)  # (N, H, W, C)
    return pixels.permute(0, 3, 1, 2)


def styled(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return torch.addcmul(shift, normed(x), 1 + scale)


def scaled(layer: nn.Linear, depth: int = 1) -> nn.Linear:
    """The layer with weights of standard deviation 1 / sqrt(fan_in * depth), and no bias at first."""
    with torch.no_grad():
        layer.weight.normal_(0, (layer.in_features * depth) ** -0.5)
        if layer.bias is not None:
            layer.bias.zero_()
    return layer
