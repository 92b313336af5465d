"""Pictures of several proportions in one training: a batch is of one size, the nearest to those of its pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from trainer.data.reader import Reader
from trainer.data.sampler import shuffled
from trainer.data.source import digest
from trainer.data.split import kept
from trainer.errors import UserError
from trainer.process.progress import say
from trainer.size import Resolution, Size

_AT_ONCE = 1 << 20  # pictures


class Buckets:
    """Which size the batches of an endless stream have, by position alone, and which images are of that size.

    readers: of the images at each of B sizes. members: (M,) the numbers of the training images, those of the first size
    first; counts: (B,) how many each has. batch_size: over all ranks.

    After c passes over the data size b has had floor(c * counts[b] / batch_size) batches, in an order of their own in
    each pass: so all images are seen as often as others, but for less than a batch of each size.
    """

    def __init__(self, readers: Sequence[Reader], members: np.ndarray, counts: np.ndarray, batch_size: int) -> None:
        self.readers, self.members, self.counts, self.batch_size = readers, members, counts.tolist(), batch_size

    def of(self, bucket: int) -> np.ndarray:
        """The numbers of the images of a size."""
        first = sum(self.counts[:bucket])
        return self.members[first : first + self.counts[bucket]]

    def at(self, seed: int, start: int) -> tuple[int, int]:
        """Of the batch that begins at this position: which size, and its first place in the order of the images of
        that size."""
        batch = start // self.batch_size
        number = batch * self.batch_size // len(self.members)  # of the pass, or of an earlier one
        while sum(self._batches(number + 1)) <= batch:
            number += 1
        before = self._batches(number)
        here = [after - done for after, done in zip(self._batches(number + 1), before, strict=True)]
        total = sum(here)
        slot = int(shuffled(seed, np.array([number * total + batch - sum(before)]), total, "buckets")[0])
        ends = [*accumulate(here)]
        bucket = next(i for i, end in enumerate(ends) if slot < end)
        return bucket, (before[bucket] + slot - ends[bucket] + here[bucket]) * self.batch_size

    def _batches(self, passes: int) -> list[int]:
        return [passes * count // self.batch_size for count in self.counts]


def parsed(given: Sequence[Resolution], decoded: bool) -> list[Size]:
    """Sizes as a configuration has them; UserError where they are none, or pictures are kept at one size."""
    sizes = [*dict.fromkeys(Size.of(each) for each in given)]
    if not sizes or any(side % 8 or not 16 <= side <= 1024 for size in sizes for side in size):
        raise UserError(f"data.buckets={[*given]}: expected sizes as [[48,80],[64,64],[80,48]], multiples of 8 to 1024")
    if decoded:
        raise UserError("data.buckets: set data.decoded=false, as a decoded cache has pictures of one size alone")
    return sizes


def assigned(sides: np.ndarray, sizes: Sequence[Size]) -> np.ndarray:
    """(M,) uint8, which of the sizes has the proportions nearest to those of pictures (M, 2), height and width."""
    wanted = np.array([np.log(size.width / size.height) for size in sizes], np.float32)
    found = np.empty(len(sides), np.uint8)
    for start in range(0, len(sides), _AT_ONCE):
        height, width = sides[start : start + _AT_ONCE].astype(np.float32).T
        found[start : start + _AT_ONCE] = np.abs(np.log(width / height)[:, None] - wanted).argmin(1)
    return found


def divided(sides: np.ndarray, sizes: Sequence[Size], batch_size: int) -> list[np.ndarray]:
    """`members` and `counts` of `Buckets` over all sizes, of pictures (M, 2).

    A size with fewer of them than a batch, in which they would stand several times, has none: they go to the nearest of
    the others, and a line says so.
    """
    left = [*range(len(sizes))]
    while True:
        found = np.array(left, np.uint8)[assigned(sides, [sizes[i] for i in left])]
        counts = np.bincount(found, minlength=len(sizes))
        fewest = min(left, key=lambda i: int(counts[i]))
        if counts[fewest] >= batch_size or len(left) == 1:
            return [found.argsort(kind="stable"), counts]
        left.remove(fewest)
        if counts[fewest]:
            few = f"{sizes[fewest]} is nearest to {counts[fewest]} pictures, fewer than a batch of {batch_size}"
            rank_zero_only(say)(f"data.buckets: {few}: they are cut to another size")


def made(cache: Any, indices: np.ndarray, sizes: Sequence[Size], batch_size: int) -> Buckets:
    """Those of the training images of an index; a line says how many each size has."""
    key = digest(*sizes, batch_size, hashlib.sha256(np.ascontiguousarray(indices).data).hexdigest())
    members, counts = kept(cache, ("buckets", "counts"), key, lambda: divided(cache.sides[indices], sizes, batch_size))
    told = ", ".join(f"{count:,} at {size}" for size, count in zip(sizes, counts.tolist(), strict=True))
    rank_zero_only(say)(f"data.buckets: pictures to train on: {told}")
    return Buckets([cache.at(size) for size in sizes], members, counts, batch_size)
