"""Which images train and which are held out."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch

from trainer import noise
from trainer.data.cache import Cache
from trainer.errors import UserError


class Split:
    """One side of the train / held-out split: M images in cache order."""

    def __init__(self, cache: Cache, indices: np.ndarray) -> None:
        self.cache, self.indices = cache, indices

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def images(self) -> Images:
        return Images(self.cache.images, self.indices)

    @cached_property
    def captions(self) -> list[str]:
        """The first caption of each image."""
        captions = self.cache.captions
        return [captions[number] for number in self.cache.caption_ids[self.cache.caption_starts[self.indices]]]

    @cached_property
    def attributes(self) -> list[dict[str, Any]]:
        return [record["attributes"] for record in self.cache.records(self.indices)]


class Images:
    """(M, H, W, 3) uint8 array-like; an index or slice reads just those images."""

    def __init__(self, images: np.ndarray, indices: np.ndarray) -> None:
        self.shape = (len(indices), *images.shape[1:])
        self.dtype = images.dtype
        self._images, self._indices = images, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: Any) -> np.ndarray:
        return self._images[self._indices[index]]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or self.dtype, copy=False)


def split(cache: Cache, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the training and of the held-out images.

    A concept is held out where its hash with the seed falls below the fraction, so new items never move old ones; at
    least one concept goes each way. Raises UserError where that cannot be.
    """
    draw = noise.uniform(seed, "heldout", torch.from_numpy(cache.concepts), 1)[:, 0].numpy()
    free = cache.heldout < 0
    heldout = np.where(free, draw < fraction, cache.heldout == 1)
    if fraction and free.any() and not heldout.any():
        heldout = free & (draw == draw[free].min())
    if heldout.all() and free.any():
        heldout &= ~(free & (draw == draw[free].max()))
    if heldout.all():
        raise UserError("every image is held out, none is left to train on; lower data.heldout=")
    if fraction and not heldout.any():
        raise UserError(f"data.heldout={fraction}: no concept can be held out of this source; set data.heldout=0")
    return np.flatnonzero(~heldout), np.flatnonzero(heldout)
