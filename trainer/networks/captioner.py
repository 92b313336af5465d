"""A transformer that writes the caption of an image, piece by piece (Vinyals et al. 2015, with attention).

The blocks are those of `prior`, with the image in the place of its words and pieces of words in that of its codes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.errors import UserError
from trainer.networks.matching import ImageEncoder
from trainer.networks.prior import Block, Past, heads, through
from trainer.size import Resolution


class Captioner(nn.Module):
    """Logits (N, L, K) of pieces of captions, each given the image and the pieces before it.

    Images are read as a whole and by 4 x 4 to 7 x 7 regions. Of the V pieces of a vocabulary K are ever written, those
    that captions of training have (`known`). Their embeddings of `word_channels` are also the weights of what is
    written (Press & Wolf 2017), widened and narrowed as in ALBERT (Lan et al. 2020).
    """

    known: Tensor
    turn: Tensor
    latent_channels = 0

    def __init__(
        self,
        resolution: Resolution,
        vocabulary: int,
        max_tokens: int,
        base_channels: int = 16,
        max_channels: int = 128,
        word_channels: int = 32,
        width: int = 128,
        num_layers: int = 3,
        num_heads: int = 4,
    ):
        super().__init__()
        if width % (2 * num_heads):
            raise UserError(f"captioner.width={width}: expected a multiple of 2 * num_heads={2 * num_heads}")
        self.vocabulary, self.max_tokens, self.num_heads = vocabulary, max_tokens, num_heads
        self.image = ImageEncoder(resolution, width, base_channels, max_channels)
        self.pieces = nn.Embedding(vocabulary + 1, word_channels)  # the last begins a caption
        self.widen, self.narrow = nn.Linear(word_channels, width), nn.Linear(width, word_channels)
        self.bias = nn.Embedding(vocabulary, 1)  # tables are called: so engines that split them gather them first
        nn.init.zeros_(self.bias.weight)
        self.regions = nn.ModuleList(nn.Linear(width, 2 * width, bias=False) for _ in range(num_layers))
        self.blocks = nn.ModuleList(Block(width, num_heads, num_layers) for _ in range(num_layers))
        self.norm = nn.RMSNorm(width)
        self.register_buffer("known", torch.ones(vocabulary, dtype=torch.bool))
        self.register_buffer("turn", line(max_tokens, width // num_heads), persistent=False)
        self._written: Tensor | None = None
        self._numbers = torch.empty(0)

    def learn(self, ids: Tensor) -> None:
        """From now on no other pieces are written than these, ids of any shape."""
        self.known.zero_()
        self.known[ids.flatten()] = True
        self._written = None

    @property
    def written(self) -> Tensor:
        """(K,) ids of the pieces that are written."""
        if self._written is None or self._written.device != self.known.device:
            self._written = self.known.nonzero()[:, 0]  # once: it waits for a GPU
            self._numbers = self.known.cumsum(0) - 1
        return self._written

    def numbers(self, ids: Tensor) -> Tensor:
        """Places of pieces among those that are `written`, of ids of any shape."""
        assert self.written is not None
        return self._numbers[ids]

    def forward(self, image: Tensor, ids: Tensor) -> Tensor:
        """Of images (N, 3, H, W) in [-1, 1] and the ids (N, L) int64 that are to be predicted."""
        return self.predicted(ids, self.begin(image))

    def predicted(self, ids: Tensor, past: Past) -> Tensor:
        """Logits (N, L, K) of each of the ids (N, L), given those before it and what is seen."""
        begin = ids.new_full((len(ids), 1), self.vocabulary)
        return self.step(torch.cat([begin, ids[:, :-1]], 1), past)[0]

    def begin(self, image: Tensor) -> Past:
        """What is seen of images."""
        return self.past(self.seen(image))

    def seen(self, image: Tensor) -> Tensor:
        """(N, 1 + regions, width): images (N, 3, H, W) as wholes and by their regions."""
        whole, regions = self.image(image)
        seen = torch.cat([whole[:, None], regions.flatten(2).transpose(1, 2)], 1)
        return F.layer_norm(seen, seen.shape[-1:])

    def past(self, seen: Tensor) -> Past:
        """What the blocks read of (N, t, width)."""
        read = [heads(layer(seen), 2, self.num_heads) for layer in self.regions]
        mask = torch.ones(seen.shape[:2], dtype=torch.bool, device=seen.device)
        return Past([(key, value) for key, value in read], mask, 0)

    def step(self, ids: Tensor, past: Past) -> tuple[Tensor, Past]:
        """Logits (N, t, K) of what follows each of the t pieces (N, t) behind the past, and the past with them."""
        x, past = through(self.blocks, self.widen(self.pieces(ids)), self.turn, past, causal=True)
        return F.linear(self.narrow(self.norm(x)), self.pieces(self.written), self.bias(self.written)[:, 0]), past


def line(count: int, channels: int) -> Tensor:
    """(2, count, channels / 2) cosines and sines of rotary positions in a row (Su et al. 2021)."""
    n = channels // 2
    angle = torch.arange(count)[:, None] * 100.0 ** (-torch.arange(n) / n)
    return torch.stack([angle.cos(), angle.sin()])
