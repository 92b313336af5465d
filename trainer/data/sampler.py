"""Which image stands where in the endless training stream: a pure function of (seed, position)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Sampler

from trainer import noise

_NUM_ROUNDS = 8
_ODD = np.uint64(0xD6E8FEB86659FD93)
_SHIFT = np.uint64(32)


def shuffled(seed: int, position: np.ndarray, size: int, stream: str = "shuffle") -> np.ndarray:
    """(N,) int64 in [0, size) for (N,) int64 stream positions; each epoch of `size` positions is a permutation.

    A Feistel network over the next power of two, keyed by (seed, epoch); results outside the range are permuted again
    until they fall inside (cycle walking, Black and Rogaway 2002). Stores nothing, costs the same anywhere in an epoch.
    """
    epoch, value = np.divmod(position, size)
    keys = noise.bits(seed, stream, torch.from_numpy(epoch), _NUM_ROUNDS).numpy().view(np.uint64).T
    value = value.astype(np.uint64)
    outside = np.arange(len(value))
    while len(outside):
        value[outside] = _feistel(value[outside], keys[:, outside], max(size - 1, 1).bit_length())
        outside = outside[value[outside] >= size]
    return value.astype(np.int64)


def shuffled_blocks(seed: int, position: np.ndarray, size: int, block: int) -> np.ndarray:
    """As `shuffled`, but of blocks: every `block` positions of an epoch have as many numbers in a row.

    With a block of 1 it is `shuffled`. Each epoch cuts the numbers elsewhere, so that one has not the same neighbours
    again; what is left behind the last whole block ends the epoch.
    """
    if block == 1:
        return shuffled(seed, position, size)
    epoch, place = np.divmod(position, size)
    number, within = np.divmod(place, block)
    count = size // block
    whole = number < count
    number[whole] = shuffled(seed, epoch[whole] * count + number[whole], count)
    cut = noise.bits(seed, "cut", torch.from_numpy(epoch), 1)[:, 0].numpy() % size
    return (number * block + within + cut) % size


def _feistel(value: np.ndarray, keys: np.ndarray, num_bits: int) -> np.ndarray:
    low_bits = np.uint64(num_bits // 2)
    high_bits = np.uint64(num_bits) - low_bits
    one = np.uint64(1)
    low_mask, high_mask = (one << low_bits) - one, (one << high_bits) - one
    low, high = value & low_mask, value >> low_bits
    for key_of_low, key_of_high in zip(keys[::2], keys[1::2], strict=True):
        low = low ^ (_mix(high + key_of_low) & low_mask)
        high = high ^ (_mix(low + key_of_high) & high_mask)
    return (high << low_bits) | low


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> _SHIFT)) * _ODD
    return z ^ (z >> _SHIFT)


def aliases(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What M images with these weights (M,) > 0 keep of their places in the stream, (M,) in [0, 1], and the images (M,)
    that have the rest (Walker 1977, Vose 1991).

    Image i stays with probability keep[i], else other[i] stands there: each is seen in proportion to its weight, as
        keep[i] + sum_{j: other[j] = i} (1 - keep[j]) = M weights[i] / sum(weights)
    """
    keep = weights * (len(weights) / weights.sum())
    other = np.arange(len(weights))
    less, more = np.flatnonzero(keep < 1).tolist(), np.flatnonzero(keep >= 1).tolist()
    while less and more:
        low, high = less.pop(), more[-1]
        other[low] = high
        keep[high] -= 1 - keep[low]
        if keep[high] < 1:
            less.append(more.pop())
    keep[less] = 1  # left by rounding
    return keep.clip(max=1), other


class Order:
    """Which of M images stands at which position of an endless stream of them.

    block: how many in a row are read together; those that weights put in the place of others are read alone. weights:
    (M,) how often each image is seen beside the others; None for all alike.
    """

    def __init__(self, seed: int, count: int, block: int = 1, weights: np.ndarray | None = None) -> None:
        self.seed, self.count, self.block = seed, count, block
        self.aliases = None if weights is None else aliases(weights)

    def __call__(self, place: np.ndarray, position: torch.Tensor) -> np.ndarray:
        """(N,) in [0, M) of places (N,) in this order; position: (N,) of the samples, on which what is drawn hangs."""
        number = shuffled_blocks(self.seed, place, self.count, self.block)
        if self.aliases is None:
            return number
        keep, other = self.aliases
        draw = noise.uniform(self.seed, "weight", position, 1)[:, 0].numpy()
        return np.where(draw < keep[number], number, other[number])


class BatchStarts(Sampler[int]):
    """Endless first positions of global batches: start, start + batch_size, ..."""

    def __init__(self, start: int, batch_size: int) -> None:
        self.start, self.batch_size = start, batch_size

    def __iter__(self) -> Iterator[int]:
        position = self.start
        while True:
            yield position
            position += self.batch_size
