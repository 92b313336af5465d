"""A transformer over maps of codes, given a caption: causal, or with every place in sight of every other.

The blocks of LlamaGen (Sun et al. 2024): RMS norm, SwiGLU, two-dimensional rotary positions. Words are keys and values
in front of the image's own, read for each block from the features of the text: they cost two projections.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.batch import Condition
from trainer.errors import UserError
from trainer.size import Resolution, Size


class Past(NamedTuple):
    """What attention has seen: of each block keys and values (N, heads, words + places, d); which words count, as a
    mask (N, words); and how many places."""

    blocks: list[tuple[Tensor, Tensor]]
    words: Tensor
    places: int


class Block(nn.Module):
    """x + attention(norm(x)), then x + SwiGLU(norm(x)); x (N, t, width)."""

    def __init__(self, width: int, num_heads: int, num_layers: int):
        super().__init__()
        self.num_heads = num_heads
        hidden = -(-8 * width // 3 // 16) * 16
        self.norm_attention, self.norm_mlp = nn.RMSNorm(width), nn.RMSNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)
        for layer in (self.out, self.down):  # 2 * num_layers of these add up: the sum keeps the variance of one
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5 * (2 * num_layers) ** -0.5)

    def forward(
        self, x: Tensor, turn: Tensor, sight: Tensor, past: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The new x, and keys and values with those of x behind the past ones.

        turn: (2, t, d / 2) cosines and sines of x's places. sight: (N, 1, t, past + t) bool, what each place sees.
        """
        query, key, value = heads(self.query_key_value(self.norm_attention(x)), 3, self.num_heads)
        query, key = rotated(query, turn), rotated(key, turn)
        key, value = (torch.cat(pair, 2) for pair in zip(past, (key, value), strict=True))
        read = F.scaled_dot_product_attention(query, key, value, attn_mask=sight)
        x = x + self.out(read.transpose(1, 2).flatten(2))
        gate, up = self.gate_up(self.norm_mlp(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up), (key, value)


class Prior(nn.Module):
    """Logits (N, T, num_codes) of the codes of an image, T places of a map of `size` row by row, given its caption.

    causal: of each code given those before it; else of all, given those that are not hidden. The embedding of number
    `num_codes` begins a causal sequence, or stands for a hidden code. text: as in `dcgan.Generator`.
    """

    turn: Tensor

    def __init__(
        self,
        num_codes: int,
        size: Resolution,
        causal: bool,
        text_channels: int,
        text: nn.Module,
        width: int = 128,
        num_layers: int = 4,
        num_heads: int = 4,
    ):
        super().__init__()
        if width % (4 * num_heads):
            raise UserError(f"prior.width={width}: expected a multiple of 4 * num_heads={4 * num_heads}")
        self.num_codes, self.num_heads, self.causal = num_codes, num_heads, causal
        self.num_places = math.prod(Size.of(size))
        self.text = text
        self.codes = nn.Embedding(num_codes + 1, width)
        self.places = nn.Parameter(torch.empty(self.num_places, width))
        for table in (self.codes.weight, self.places):
            nn.init.normal_(table, std=0.5)
        self.words = nn.ModuleList(nn.Linear(text_channels, 2 * width, bias=False) for _ in range(num_layers))
        self.blocks = nn.ModuleList(Block(width, num_heads, num_layers) for _ in range(num_layers))
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, num_codes)
        nn.init.normal_(self.head.weight, std=0.02)
        self.register_buffer("turn", rotary(size, width // num_heads), persistent=False)

    def forward(self, codes: Tensor, condition: Condition) -> Tensor:
        """codes: (N, T) int64; those that a causal prior has to predict, else with `num_codes` where hidden."""
        if self.causal:
            codes = torch.cat([codes.new_full((codes.shape[0], 1), self.num_codes), codes[:, :-1]], 1)
        return self.step(codes, self.begin(condition))[0]

    def begin(self, condition: Condition) -> Past:
        """The words of captions, and each caption as a whole in front of them."""
        condition = self.text(condition)
        text = torch.cat([condition.pooled[:, None], condition.tokens], 1)
        text = F.layer_norm(text, text.shape[-1:])
        mask = F.pad(condition.mask, (1, 0), value=True)
        read = [heads(layer(text), 2, self.num_heads) for layer in self.words]
        return Past([(key, value) for key, value in read], mask, 0)

    def step(self, codes: Tensor, past: Past) -> tuple[Tensor, Past]:
        """Logits (N, t, num_codes) of the t places behind the past, and the past with them; codes: (N, t) int64."""
        x = self.codes(codes) + self.places[past.places : past.places + codes.shape[1]]
        x, past = through(self.blocks, x, self.turn, past, self.causal)
        return self.head(self.norm(x)), past


def through(blocks: Iterable[nn.Module], x: Tensor, turn: Tensor, past: Past, causal: bool) -> tuple[Tensor, Past]:
    """x (N, t, width) of the t places behind the past, through all blocks, and the past with them.

    turn: (2, T, d / 2) of all places. causal: each sees those before it, else all of them.
    """
    count = x.shape[1]
    before, last = past.words.shape[1] + past.places, past.places + count
    sight = torch.ones(count, before + count, dtype=torch.bool, device=x.device)
    sight = sight.tril(before) if causal else sight
    counted = F.pad(past.words, (0, last), value=True)  # places do all
    passed = []
    for block, seen in zip(blocks, past.blocks, strict=True):
        x, after = block(x, turn[:, past.places : last], sight & counted[:, None, None], seen)
        passed.append(after)
    return x, Past(passed, past.words, last)


def heads(x: Tensor, count: int, num_heads: int) -> tuple[Tensor, ...]:
    """`count` times (N, heads, t, d) of (N, t, count * heads * d)."""
    return x.unflatten(2, (count, num_heads, -1)).permute(2, 0, 3, 1, 4).unbind()


def rotary(size: Resolution, channels: int) -> Tensor:
    """(2, h w, channels / 2) cosines and sines: half of the angles turn with the row, half with the column.

    Angles of place p are p / 100^(i / n) for i = 0 ... n - 1 (Su et al. 2021; 100 is enough for so few places).
    """
    n = channels // 4
    frequency = 100.0 ** (-torch.arange(n) / n)
    row, column = torch.meshgrid(*map(torch.arange, Size.of(size)), indexing="ij")
    angle = torch.cat([place.flatten()[:, None] * frequency for place in (row, column)], 1)
    return torch.stack([angle.cos(), angle.sin()])


def rotated(x: Tensor, turn: Tensor) -> Tensor:
    """Pairs (x_i, x_{i + d/2}) of (N, heads, t, d) turned by their angles, turn (2, t, d / 2)."""
    one, other = x.chunk(2, -1)
    cos, sin = turn.to(x.dtype)
    return torch.cat([one * cos - other * sin, one * sin + other * cos], -1)
