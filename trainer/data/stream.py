"""The training set as an endless stream of batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from trainer import noise
from trainer.batch import Batch
from trainer.data.augment import Augment
from trainer.data.cache import Cache
from trainer.data.rows import Rows
from trainer.data.sampler import shuffled


class Stream(Dataset[Batch]):
    """stream[p] is the batch of positions p + first .. p + first + size - 1, the same in any process.

    indices: (M,) the training images within the cache. features: caption numbers -> Condition.
    first, size: this rank's block of a global batch that begins at p.
    encoded: what stands for the images of the cache, none of which is read then.
    """

    def __init__(
        self,
        cache: Cache,
        indices: np.ndarray,
        features: Any,
        augment: Augment,
        seed: int,
        first: int,
        size: int,
        encoded: Rows | None = None,
    ) -> None:
        self.cache, self.indices, self.features, self.augment = cache, indices, features, augment
        self.seed, self.first, self.size, self.encoded = seed, first, size, encoded

    def __getitem__(self, start: int) -> Batch:
        position = np.arange(start + self.first, start + self.first + self.size)
        index = self.indices[shuffled(self.seed, position, len(self.indices))]
        positions = torch.from_numpy(position)
        if self.encoded is None:
            images, encoded = self.augment(self.cache.images[index], self.seed, positions), None
        else:
            images, encoded = np.empty((self.size, 0, 0, 3), np.uint8), torch.from_numpy(self.encoded[index])
        caption = self._captions(index, positions)
        return Batch(
            image=torch.from_numpy(images).permute(0, 3, 1, 2),  # a view: channels last, without a copy
            condition=self.features[caption],
            caption=torch.from_numpy(caption),
            position=positions,
            encoded=encoded,
        )

    def _captions(self, index: np.ndarray, position: torch.Tensor) -> np.ndarray:
        """(N,) caption numbers: one of each image's captions."""
        first = self.cache.caption_starts[index]
        count = self.cache.caption_starts[index + 1] - first
        if (count > 1).any():
            draw = noise.uniform(self.seed, "caption", position, 1)[:, 0].numpy()
            first = first + (draw * count).astype(np.int64)
        return self.cache.caption_ids[first]
