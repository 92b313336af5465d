"""The training set as an endless stream of batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from trainer.batch import Batch
from trainer.data.augment import Augment
from trainer.data.buckets import Buckets
from trainer.data.reader import Reader
from trainer.data.rows import Rows
from trainer.data.sampler import Order
from trainer.errors import UserError

UNPAIRED = 1 << 30  # sources that are drawn apart from their images are in the order of that many epochs later


class Stream(Dataset[Batch]):
    """stream[p] is the batch of positions p + first .. p + first + size - 1, the same in any process.

    indices: (M,) the training images within the cache. features: caption numbers -> Condition.
    first, size: this rank's block of a global batch that begins at p.
    encoded: what stands for the images of the cache, none of which is read then. paired: whether sources stay with
    their images. weights, block: as of `Order`. buckets: the sizes that batches have; None for that of the cache.
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
        buckets: Buckets | None = None,
    ) -> None:
        if not 1 <= block <= max(len(indices), 1):
            raise UserError(f"data.block_size={block}: expected 1 to {len(indices):,}, the images to train on")
        self.indices, self.features, self.augment = indices, features, augment
        self.seed, self.first, self.size, self.encoded, self.paired = seed, first, size, encoded, paired
        self.buckets = buckets
        self.order = Order(seed, len(indices), block, weights)
        self.caches: list[Reader] = [cache]
        self.orders = [self.order]
        if buckets is not None:
            self.caches = [*buckets.readers]
            members = map(buckets.of, range(len(self.caches)))
            self.orders = [
                Order(seed, len(each), max(1, min(block, len(each))), None if weights is None else weights[each])
                for each in members
            ]

    def __getitem__(self, start: int) -> Batch:
        bucket, place = (0, start) if self.buckets is None else self.buckets.at(self.seed, start)
        mine = np.arange(self.first, self.first + self.size)
        position = torch.from_numpy(start + mine)
        number = self.orders[bucket](place + mine, position)
        index = self.indices[number if self.buckets is None else self.buckets.of(bucket)[number]]
        cache = self.caches[bucket]
        if self.encoded is None:
            images, encoded = self._seen(cache.images, index, position), None
        else:
            images, encoded = np.empty((self.size, 0, 0, 3), np.uint8), torch.from_numpy(self.encoded[index])
        caption = cache.pictures.draw_captions(index, self.seed, position)
        return Batch(
            image=torch.from_numpy(images).permute(0, 3, 1, 2),  # a view: channels last, without a copy
            condition=self.features[caption],
            caption=torch.from_numpy(caption),
            position=position,
            encoded=encoded,
            other=self._other(cache, index, position),
        )

    def _seen(self, images: Any, index: np.ndarray, position: torch.Tensor) -> np.ndarray:
        """(N, H, W, 3) uint8, cut out as the augmentation says."""
        parts = self.augment.parts(self.seed, position)
        return images[index] if parts is None else images.parts(index, parts)

    def _other(self, cache: Reader, index: np.ndarray, position: torch.Tensor) -> Batch | None:
        """The sources, cut out as their images are; unpaired, those of other rows, in an order of their own."""
        sources = cache.sources
        if sources is None:
            return None
        if not self.paired:
            index = self.indices[self.order(position.numpy() + UNPAIRED * len(self.indices), position)]
        images = self._seen(sources.images, index, position)
        caption = sources.draw_captions(index, self.seed, position)
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        return Batch(pixels, self.features[caption], torch.from_numpy(caption), position)
