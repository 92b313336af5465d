"""The training set as an endless stream of batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from trainer import noise
from trainer.batch import Batch
from trainer.data.augment import Augment
from trainer.data.reader import Reader
from trainer.data.rows import Rows
from trainer.data.sampler import aliases, shuffled_blocks
from trainer.errors import UserError

UNPAIRED = 1 << 30  # sources that are drawn apart from their images are in the order of that many epochs later


class Stream(Dataset[Batch]):
    """stream[p] is the batch of positions p + first .. p + first + size - 1, the same in any process.

    indices: (M,) the training images within the cache. features: caption numbers -> Condition.
    first, size: this rank's block of a global batch that begins at p.
    encoded: what stands for the images of the cache, none of which is read then. paired: whether sources stay with
    their images. weights: (M,) how often each image is seen beside the others; None for all alike.
    block: how many images in a row are read together; those that weights put in the place of others are read alone.
    """

    def __init__(
        self,
        cache: Reader,
        indices: np.ndarray,
        features: Any,
        augment: Augment,
        seed: int,
        first: int,
        size: int,
        encoded: Rows | None = None,
        paired: bool = True,
        weights: np.ndarray | None = None,
        block: int = 1,
    ) -> None:
        if not 1 <= block <= max(len(indices), 1):
            raise UserError(f"data.block_size={block}: expected 1 to {len(indices):,}, the images to train on")
        self.cache, self.indices, self.features, self.augment = cache, indices, features, augment
        self.seed, self.first, self.size, self.encoded, self.paired = seed, first, size, encoded, paired
        self.block = block
        self.aliases = None if weights is None else aliases(weights)

    def __getitem__(self, start: int) -> Batch:
        position = np.arange(start + self.first, start + self.first + self.size)
        positions = torch.from_numpy(position)
        index = self.indices[self._numbers(position, positions)]
        if self.encoded is None:
            images, encoded = self._seen(self.cache.images, index, positions), None
        else:
            images, encoded = np.empty((self.size, 0, 0, 3), np.uint8), torch.from_numpy(self.encoded[index])
        caption = self.cache.pictures.draw_captions(index, self.seed, positions)
        return Batch(
            image=torch.from_numpy(images).permute(0, 3, 1, 2),  # a view: channels last, without a copy
            condition=self.features[caption],
            caption=torch.from_numpy(caption),
            position=positions,
            encoded=encoded,
            other=self._other(position, index, positions),
        )

    def _seen(self, images: Any, index: np.ndarray, positions: torch.Tensor) -> np.ndarray:
        """(N, H, W, 3) uint8, cut out as the augmentation says."""
        parts = self.augment.parts(self.seed, positions)
        return images[index] if parts is None else images.parts(index, parts)

    def _numbers(self, position: np.ndarray, positions: torch.Tensor) -> np.ndarray:
        """(N,) which of the training images."""
        number = shuffled_blocks(self.seed, position, len(self.indices), self.block)
        if self.aliases is None:
            return number
        keep, other = self.aliases
        draw = noise.uniform(self.seed, "weight", positions, 1)[:, 0].numpy()
        return np.where(draw < keep[number], number, other[number])

    def _other(self, position: np.ndarray, index: np.ndarray, positions: torch.Tensor) -> Batch | None:
        """The sources, cut out as their images are; unpaired, those of other rows, in an order of their own."""
        sources = self.cache.sources
        if sources is None:
            return None
        if not self.paired:
            index = self.indices[self._numbers(position + UNPAIRED * len(self.indices), positions)]
        images = self._seen(sources.images, index, positions)
        caption = sources.draw_captions(index, self.seed, positions)
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        return Batch(pixels, self.features[caption], torch.from_numpy(caption), positions)
