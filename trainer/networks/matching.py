"""Image-text dual encoder (the networks of DAMSM, Xu et al. 2018): words and image regions in one space, and wholes."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.batch import Condition
from trainer.networks.dcgan import Trunk
from trainer.networks.layers import TextVector
from trainer.networks.sized import fitted
from trainer.size import Resolution


class ImageEncoder(nn.Module):
    """Images (N, 3, H, W) to one vector each (N, D) and to their 4 x 4 regions (N, D, 4, 4), or the first of
    `map_sizes`; maps of images of other sizes than `resolution` are brought to that."""

    any_size = True

    def __init__(
        self, resolution: Resolution, embedding_channels: int, base_channels: int = 32, max_channels: int = 256
    ):
        super().__init__()
        self.trunk = Trunk(resolution, base_channels, max_channels)
        self.regions = nn.Conv2d(self.trunk.out_channels, embedding_channels, kernel_size=1)
        # where a region is: convolutions know it only near the border, captions speak of it
        self.place = nn.Parameter(0.1 * torch.randn(embedding_channels, *self.trunk.size))
        self.whole = nn.Linear(self.trunk.out_channels * math.prod(self.trunk.size), embedding_channels)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = fitted(self.trunk(image), self.trunk.size)
        return self.whole(x.flatten(1)), self.regions(x) + self.place


class TextEncoder(nn.Module):
    """Condition to one vector a caption (N, D) and one a word (N, L, D); `text` as in `dcgan.Generator`."""

    def __init__(self, text_channels: int, embedding_channels: int, text: nn.Module):
        super().__init__()
        self.text = text
        self.words = nn.Linear(text_channels, embedding_channels)
        self.whole = TextVector(text_channels, embedding_channels)

    def forward(self, condition: Condition) -> tuple[Tensor, Tensor]:
        condition = self.text(condition)
        words = F.layer_norm(condition.tokens, condition.tokens.shape[-1:])
        return self.whole(condition), self.words(words)


class Matcher(nn.Module):
    """Both encoders as one network: they share a phase, an optimiser and an engine."""

    any_size = True  # captions have none
    image_encoder: Any
    text_encoder: Any

    def __init__(self, image_encoder: nn.Module, text_encoder: nn.Module):
        super().__init__()
        self.image_encoder = image_encoder
        self.text_encoder = text_encoder

    def image(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors (N, D) and regions (N, D, h, w) of images (N, 3, H, W) in [-1, 1]."""
        return self.image_encoder(image)

    def text(self, condition: Condition) -> tuple[Tensor, Tensor]:
        """Vectors (N, D) and words (N, L, D) of captions; words beyond the mask mean nothing."""
        return self.text_encoder(condition)
