"""What the training set is read from: pictures decoded once (`cache`), or where they lie, to be decoded each time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from trainer import noise


class Pixels(Protocol):
    """(N, H, W, 3) uint8 array-like; an index, slice or array of indices reads just those images."""

    shape: tuple[int, ...]
    dtype: Any

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any) -> np.ndarray: ...


class Pictures:
    """Images and their captions: the numbers of image i are caption_ids[caption_starts[i] : caption_starts[i + 1]]."""

    def __init__(self, images: Pixels, caption_ids: np.ndarray, caption_starts: np.ndarray) -> None:
        self.images, self.caption_ids, self.caption_starts = images, caption_ids, caption_starts

    def draw_captions(self, index: np.ndarray, seed: int, position: torch.Tensor) -> np.ndarray:
        """(N,) caption numbers: one of each image's captions, by the positions (N,) that they have in the stream."""
        first = self.caption_starts[index]
        count = self.caption_starts[index + 1] - first
        if (count > 1).any():
            draw = noise.uniform(seed, "caption", position, 1)[:, 0].numpy()
            first = first + (draw * count).astype(np.int64)
        return self.caption_ids[first]


class Reader(Protocol):
    """The images of one source at one resolution, N of them, and their K distinct captions; a worker opens it anew.

    folder: of what is kept of it. captions: the K distinct ones, in order of first use.
    concepts: (N,) int64 hash of each image's concept.
    individuals: (N,) int64 hash of the concept where the source names one, else of the image's own key.
    heldout: (N,) int8; 1 held out, 0 training, -1 for the concept to decide.
    sources: what the images of a translation start from, in the same order, with captions of their own; None elsewhere.
    """

    folder: Path
    pictures: Pictures
    sources: Pictures | None
    concepts: np.ndarray
    individuals: np.ndarray
    heldout: np.ndarray

    @property
    def images(self) -> Pixels: ...

    @property
    def captions(self) -> Sequence[str]: ...

    def records(self, indices: Iterable[int]) -> list[dict[str, Any]]:
        """key, captions, concept, attributes and heldout of these images, in this order."""
        ...

    def beside(self, name: str) -> Path:
        """Where that is kept which is made of its images."""
        ...
