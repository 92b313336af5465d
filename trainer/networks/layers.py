"""Blocks that the architectures share: text pooling, modulation, word attention, heads."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.batch import Condition
from trainer.errors import UserError
from trainer.networks.sized import fitted
from trainer.size import Resolution, Size

EPSILON = 1e-5  # of layer_norm
START = Size(4, 4)  # pixels of the smallest maps of a square at a power of two; elsewhere up to 7


def map_sizes(resolution: Resolution) -> list[Size]:
    """Maps whose shorter side has from 4 to 7 pixels up to `resolution`: of squares the sides are [4, 8, 16, 32],
    [5, 10, 20, 40], [6, 13, 26, 52, 104]; of 32 x 48 pixels [4 x 6, 8 x 12, 16 x 24, 32 x 48].

    Generators begin and discriminators end at the first. Strided convolutions halve them so, 13 // 2 = 6; where a
    doubled map is to be odd it is `grown`.
    """
    size = Size.of(resolution)
    if not 16 <= min(size) <= max(size) <= 1024:
        raise UserError(f"resolution {size}: expected 16 to 1024 pixels; set data.resolution to a multiple of 8")
    return [size.over(1 << i) for i in reversed(range(min(size).bit_length() - 2))]


def grown(x: Tensor, size: Size) -> Tensor:
    """(N, C, H, W) -> (N, C, *size): the last row and the last column once more where that is larger."""
    if x.shape[2] < size.height:
        x = torch.cat([x, x[:, :, -1:]], 2)
    if x.shape[3] < size.width:
        x = torch.cat([x, x[..., -1:]], 3)
    return x


def repeated(logits: Tensor, places: int) -> Tensor:
    """(N, p) -> (N, places): each so many times, or some once more where places is no multiple of p."""
    own = logits.shape[1]
    if places % own == 0:
        return logits.repeat_interleave(places // own, 1)
    return logits[:, torch.arange(places, device=logits.device) * own // places]


def channels_at(size: Size, resolution: Resolution, base_channels: int, max_channels: int) -> int:
    """Channels of the map of this size: `base_channels` at full resolution, doubled at each halving."""
    return min(max_channels, base_channels << ((min(Size.of(resolution)) // min(size)).bit_length() - 1))


def of_source(channels: int, out_channels: int) -> nn.Conv2d:
    """The first layer of a network that starts from a picture.

    Of a run whose sources had one channel less it takes the weights, 0 for the last, as InstructPix2Pix does (Brooks et
    al. 2023): so what learned with a source begins, by `init`, to learn without one (`Task.source_dropout`).
    """
    layer = nn.Conv2d(channels, out_channels, kernel_size=3, padding=1)
    layer.register_load_state_dict_pre_hook(_with_last_channel)
    return layer


def _with_last_channel(layer: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    weight = state.get(f"{prefix}weight")
    if weight is not None and weight.dim() == 4 and weight.shape[1] + 1 == layer.in_channels:
        state[f"{prefix}weight"] = F.pad(weight, (0, 0, 0, 0, 0, 1))


class TextVector(nn.Module):
    """One vector a caption: `num_queries` learned queries attend to the words, joined with the pooled features.

    A pooled vector alone blurs which word belongs to which ("red circle on blue"); the queries read single words.
    forward: Condition -> (N, out_channels).
    """

    def __init__(self, text_channels: int, out_channels: int, num_queries: int = 8, head_channels: int = 32):
        super().__init__()
        self.query = nn.Parameter(torch.randn(num_queries, head_channels))
        self.key = nn.Linear(text_channels, head_channels, bias=False)  # a bias would cancel in the softmax
        self.value = nn.Linear(text_channels, head_channels)
        self.out = nn.Linear(num_queries * head_channels + text_channels, out_channels)

    def forward(self, condition: Condition) -> Tensor:
        words = F.layer_norm(condition.tokens, condition.tokens.shape[-1:])
        score = self.key(words) @ self.query.T / math.sqrt(self.query.shape[1])  # (N, L, Q)
        score = score.masked_fill(~condition.mask[..., None], -torch.inf)
        read = score.softmax(1).transpose(1, 2) @ self.value(words)  # (N, Q, head_channels)
        pooled = F.layer_norm(condition.pooled, condition.pooled.shape[-1:])
        return self.out(torch.cat([read.flatten(1), pooled], 1))


class Style(nn.Module):
    """Latent and caption to the vector that modulates every block: (N, Z), Condition -> (N, style_channels)."""

    def __init__(self, latent_channels: int, text_channels: int, style_channels: int):
        super().__init__()
        self.text = TextVector(text_channels, style_channels)
        self.mix = nn.Sequential(
            nn.Linear(latent_channels + style_channels, style_channels),
            nn.LeakyReLU(0.2),
            nn.Linear(style_channels, style_channels),
            nn.LeakyReLU(0.2),
        )

    def forward(self, noise: Tensor, condition: Condition) -> Tensor:
        return self.mix(torch.cat([noise, F.leaky_relu(self.text(condition), 0.2)], 1))


def normed(x: Tensor) -> Tensor:
    """Layer norm over the last dimension, in the precision of x. Its sums are in float32 in any; autocast would, on a
    GPU, make all of it float32, and of what follows, up to the next product."""
    with nullcontext() if x.dtype == torch.float32 else torch.autocast(x.device.type, enabled=False):
        return F.layer_norm(x, x.shape[-1:])


class ModulatedNorm(nn.Module):
    """Layer norm over the channels of each pixel, then a scale and shift read from the style (FiLM, Perez et al. 2018).

    y = (1 + scale(s)) * norm(x) + shift(s). No statistic crosses pixels or samples.
    (N, C, H, W), (N, S) -> (N, C, H, W).
    """

    def __init__(self, channels: int, style_channels: int):
        super().__init__()
        self.style = nn.Linear(style_channels, 2 * channels)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        scale, shift = self.style(style)[:, :, None, None].chunk(2, 1)
        return torch.addcmul(shift, normed(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), 1 + scale)

    def for_onnx(self) -> nn.Module:
        return NormAcross(self.style, one=1.0)


class NormAcross(nn.Module):
    """`ModulatedNorm` in sums over the channels of maps as they lie, with which onnxruntime takes less than half of the
    time of two transpositions and its norm where maps are large.

    style: its linear layer. one: what is added to the scale. centred: of maps whose channels have mean 0 already.
    """

    def __init__(self, style: nn.Module, one: float, centred: bool = False):
        super().__init__()
        self.style, self.one, self.centred = style, one, centred

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        scale, shift = self.style(style)[:, :, None, None].chunk(2, 1)
        if self.one:
            scale = scale + self.one
        if not self.centred and min(x.shape[2:]) < 16:
            return normed(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) * scale + shift
        if not self.centred:
            x = x - x.mean(1, keepdim=True)
        return x * ((x * x).mean(1, keepdim=True) + EPSILON).rsqrt() * scale + shift


class WordAttention(nn.Module):
    """Pixels attend to the words of their caption (AttnGAN, Xu et al. 2018): x + attention(q = pixels, k = v = words).

    The residual branch starts at zero, so a block begins as the identity. (N, C, H, W), Condition -> (N, C, H, W).
    """

    def __init__(self, channels: int, text_channels: int, num_heads: int = 4):
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(text_channels, channels, bias=False)
        self.value = nn.Linear(text_channels, channels)
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, condition: Condition) -> Tensor:
        n, c, h, w = x.shape
        pixels = x.permute(0, 2, 3, 1).reshape(n, h * w, c)
        words = F.layer_norm(condition.tokens, condition.tokens.shape[-1:])
        query, key, value = (
            x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (N, heads, H*W or L, C / heads or as pruned)
            for x in (self.query(normed(pixels)), self.key(words), self.value(words))
        )
        # written out, because the fused kernels cannot be differentiated twice, as exact penalties must
        score = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])  # (N, heads, H*W, L)
        read = score.masked_fill(~condition.mask[:, None, None, :], -torch.inf).softmax(-1) @ value
        pixels = pixels + self.out(read.transpose(1, 2).flatten(2))
        return pixels.view(n, h, w, c).permute(0, 3, 1, 2)


class ProjectionHead(nn.Module):
    """Projection discriminator (Miyato & Koyama 2018): w . h + <h, V text> / sqrt(E), h of E channels.

    (N, C, *size), or of another size, Condition -> (N,).
    """

    def __init__(self, channels: int, text_channels: int, head_channels: int, size: Size = START):
        super().__init__()
        self.size = size
        self.features = nn.Linear(channels * math.prod(size), head_channels)
        self.text = TextVector(text_channels, head_channels)
        self.unconditional = nn.Linear(head_channels, 1)

    def forward(self, x: Tensor, condition: Condition) -> Tensor:
        h = F.leaky_relu(self.features(fitted(x, self.size).flatten(1)), 0.2)
        match = (h * self.text(condition)).sum(1) / math.sqrt(h.shape[1])
        return self.unconditional(h).squeeze(1) + match


class PosteriorHead(nn.Module):
    """Image features and caption to mean and log variance of a diagonal Gaussian.

    (N, C, *size), or of another size, Condition -> (N, Z), (N, Z).
    """

    def __init__(
        self, channels: int, text_channels: int, head_channels: int, latent_channels: int, size: Size = START
    ):
        super().__init__()
        self.text = TextVector(text_channels, head_channels)
        self.size = size
        self.features = nn.Linear(channels * math.prod(size), head_channels)
        self.out = nn.Linear(2 * head_channels, 2 * latent_channels)

    def forward(self, x: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        joined = torch.cat([self.features(fitted(x, self.size).flatten(1)), self.text(condition)], 1)
        mean, log_variance = self.out(F.leaky_relu(joined, 0.2)).chunk(2, 1)
        beyond = (log_variance - log_variance.clamp(-12, 6)).detach()
        return mean, log_variance - beyond  # a posterior so narrow or wide is a runaway; its gradient brings it back
