"""A small text encoder that trains with the model: words hashed to ids, then a pre-norm transformer."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.batch import Condition
from trainer.errors import UserError
from trainer.process.progress import Progress, say

WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")  # letters and digits, with apostrophes inside: don't is one word
PAD, NO_WORDS, FIRST_WORD = 0, 1, 2
MANY = 1 << 18  # captions; to hash more beforehand takes seconds of each start, and memory


class TokenIds:
    """`ids[(N,) int array] -> Condition`, tokens (N, L) int64, pooled (N, 0). In memory, 4 L bytes a caption."""

    def __init__(self, ids: np.ndarray):
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: Any) -> Condition:
        tokens = torch.from_numpy(self.ids[index].astype(np.int64))
        return Condition(tokens, tokens != PAD, torch.empty(len(tokens), 0))


class LazyIds:
    """The same of captions too many to be hashed beforehand: each when it is asked for, by who asks."""

    def __init__(self, tokenizer: HashTokenizer, captions: Sequence[str]):
        self.tokenizer, self.captions = tokenizer, captions

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, index: Any) -> Condition:
        return self.tokenizer([self.captions[i] for i in np.asarray(index).tolist()])


class HashTokenizer:
    """Captions to ids without a vocabulary file: lower-cased words, no punctuation, crc32 of a word modulo vocabulary.

    vocabulary: number of ids; 0 pads, 1 stands for a caption without words, so that every caption has a token. Of 1,000
    words about 1 in vocabulary / 1,000 shares its id with another. max_tokens: L, longer captions are cut and counted.
    UserError if either is too small.
    """

    width = 0  # ids carry no features yet; `TextTransformer` has the width

    def __init__(self, vocabulary: int, max_tokens: int):
        if vocabulary <= FIRST_WORD:
            raise UserError(f"text.encoder.vocabulary={vocabulary}: expected at least 3, better 8192")
        if max_tokens < 1:
            raise UserError(f"text.max_tokens={max_tokens}: expected at least 1")
        self.vocabulary, self.max_tokens = vocabulary, max_tokens

    def prepare(self, captions: Sequence[str]) -> TokenIds | LazyIds:
        """`ids[(N,) int array] -> Condition` of n captions; hashed anew each time, without a disk cache."""
        if len(captions) > MANY:
            return LazyIds(self, captions)
        ids = np.zeros((len(captions), self.max_tokens), np.int32)
        progress, cut, longest = Progress("text: split", "captions", len(captions)), 0, 0
        for i, caption in enumerate(captions):
            words = [self._id(word) for word in WORD.findall(caption.lower())] or [NO_WORDS]
            cut, longest = cut + (len(words) > self.max_tokens), max(longest, len(words))
            ids[i, : len(words)] = words[: self.max_tokens]
            progress(i + 1)
        if cut:
            cuts = f"text: {cut} of {len(captions)} captions cut to text.max_tokens={self.max_tokens}"
            say(f"{cuts}, longest: {longest} words")
        return TokenIds(ids)

    def _id(self, word: str) -> int:
        return FIRST_WORD + zlib.crc32(word.encode()) % (self.vocabulary - FIRST_WORD)

    def __call__(self, captions: Sequence[str]) -> Condition:
        """The same ids, of any captions."""
        return self.prepare(captions)[np.arange(len(captions))]


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); x (N, L, D), mask (N, L) bool."""

    def __init__(self, width: int, num_heads: int, num_layers: int):
        super().__init__()
        self.num_heads = num_heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        # 2 * num_layers of these outputs add up: keep the sum at the variance of one (Radford et al. 2019)
        for layer in (self.out, self.down):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5 * (2 * num_layers) ** -0.5)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        n, length, width = x.shape
        heads = self.query_key_value(self.norm_attention(x)).view(n, length, 3, self.num_heads, -1)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # (N, heads, L, D / heads) each
        read = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None, :])
        x = x + self.out(read.transpose(1, 2).reshape(n, length, width))
        return x + self.down(F.gelu(self.up(self.norm_mlp(x))))


class TextTransformer(nn.Module):
    """Condition of token ids to Condition of features: tokens (N, L, D), pooled (N, D) = projected mean over the words.

    width: D. vocabulary, max_tokens: the tokenizer's. channels: the width within, divisible by num_heads (UserError); D
    if None. Features of padding are zero.
    """

    def __init__(
        self, width: int, num_layers: int, num_heads: int, vocabulary: int, max_tokens: int, channels: int | None = None
    ):
        super().__init__()
        own = channels or width
        if own % num_heads:
            key = "text.network.channels" if channels else "text.width"
            raise UserError(f"{key}={own}: expected a multiple of text.network.num_heads={num_heads}")
        # equal scales of words and positions, well under the norms' 1: unseen combinations of known words are read best
        self.words = nn.Embedding(vocabulary, own)
        self.positions = nn.Parameter(torch.empty(max_tokens, own))
        for table in (self.words.weight, self.positions):
            nn.init.normal_(table, std=0.3)
        self.blocks = nn.ModuleList(Block(own, num_heads, num_layers) for _ in range(num_layers))
        self.norm = nn.LayerNorm(own)
        self.tokens = nn.Linear(own, width) if channels else nn.Identity()
        self.pooled = nn.Linear(own, width)

    def forward(self, condition: Condition) -> Condition:
        x = self.words(condition.tokens) + self.positions[: condition.tokens.shape[1]]
        for block in self.blocks:
            x = block(x, condition.mask)
        mask = condition.mask[..., None]
        x = self.norm(x) * mask
        pooled = self.pooled(x.sum(1) / condition.mask.sum(1, keepdim=True))
        return condition._replace(tokens=self.tokens(x) * mask, pooled=pooled)
