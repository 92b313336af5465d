"""Which images train and which are held out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from trainer import noise
from trainer.data.reader import Pictures, Pixels, Reader
from trainer.data.source import digest
from trainer.data.texts import mapped
from trainer.errors import UserError

_MANY = 1 << 20  # images from which on a split is kept: it takes seconds, and memory of every rank
_VERSION = 1  # raise it when the same rule must be followed anew


class Split:
    """One side of the train / held-out split: M images in cache order.

    pairs: whether an image is what its source is to become, where it has one; else captions are those of the sources.
    """

    def __init__(self, cache: Reader, indices: np.ndarray, pairs: bool = True) -> None:
        self.cache, self.indices, self.pairs = cache, indices, pairs
        self._told = cache.pictures if pairs or cache.sources is None else cache.sources

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def unshared(self) -> torch.Tensor:
        """(K,) bool of all captions: those of one image of this side and of no other."""
        told, here = self.cache.pictures, np.zeros(len(self.cache.images), bool)
        here[self.indices] = True
        captions = told.caption_ids[np.repeat(here, np.diff(told.caption_starts))]
        return torch.from_numpy(np.bincount(captions, minlength=told.caption_ids.max() + 1) == 1)

    @property
    def images(self) -> Images:
        return Images(self.cache.images, self.indices)

    @property
    def sources(self) -> Images | None:
        """What each image starts from, of a translation."""
        sources = self.cache.sources
        return None if sources is None else Images(sources.images, self.indices)

    @cached_property
    def captions(self) -> Sequence[str]:
        """The first caption of each image; a list, where the reader has a list of them."""
        found = First(self.cache.captions, self._told, self.indices)
        return [*found] if isinstance(found.captions, list) else found

    @property
    def all_captions(self) -> list[list[str]]:
        """All captions of each image."""
        captions, ids, starts = self.cache.captions, self._told.caption_ids, self._told.caption_starts
        return [[captions[n] for n in ids[starts[i] : starts[i + 1]]] for i in self.indices]

    @cached_property
    def attributes(self) -> list[dict[str, Any]]:
        return [record["attributes"] for record in self.cache.records(self.indices)]


def mixed(train: Split, heldout: Split, n: int) -> list[str]:
    """At most n distinct first captions, of both sides in turn."""
    found = list(dict.fromkeys(_spread(heldout, n)))
    others = [caption for caption in dict.fromkeys(_spread(train, n)) if caption not in set(found)]
    num_heldout = min(len(found), max(n // 2, n - len(others)))
    chosen = [others[: n - num_heldout], found[:num_heldout]]
    in_turn = [caption for pair in zip(*chosen, strict=False) for caption in pair]
    return in_turn + chosen[0][num_heldout:] + chosen[1][len(chosen[0]) :]


def _spread(side: Split, n: int) -> list[str]:
    """First captions of a side, taken in an order without pattern; enough for n distinct ones in ordinary data."""
    some = torch.arange(0, len(side), 1 + len(side) // _MANY)
    order = noise.bits(0, "fixed captions", some, 1)[:, 0].argsort()[: 8 * n]
    return [side.captions[i] for i in some[order].tolist()]


class First(Sequence[str]):
    """The first caption of each of M images, read as it is asked for."""

    def __init__(self, captions: Sequence[str], told: Pictures, indices: np.ndarray) -> None:
        self.captions, self._told, self._indices = captions, told, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: Any) -> Any:
        numbers = self._told.caption_ids[self._told.caption_starts[self._indices[index]]]
        return [self.captions[n] for n in numbers.tolist()] if isinstance(index, slice) else self.captions[int(numbers)]

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), 65_536):
            yield from self[start : start + 65_536]


class Images:
    """(M, H, W, 3) uint8 array-like; an index or slice reads just those images."""

    def __init__(self, images: Pixels, indices: np.ndarray) -> None:
        self.shape = (len(indices), *images.shape[1:])
        self.dtype = images.dtype
        self._images, self._indices = images, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: Any) -> np.ndarray:
        return self._images[self._indices[index]]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or self.dtype, copy=False)


def kept_split(cache: Reader, *rule: Any) -> tuple[np.ndarray, np.ndarray]:
    """As `split`; of many images it is written beside what is kept of them, and mapped by all ranks from then on."""
    train, heldout = kept(cache, ("train", "heldout"), digest(_VERSION, *rule), lambda: split(cache, *rule))
    return train, heldout


def kept(
    cache: Reader, names: Sequence[str], key: str, make: Callable[[], Sequence[np.ndarray]]
) -> Sequence[np.ndarray]:
    """What `make` finds of the images of a cache; of many it is written to their folder, and mapped from then on."""
    if len(cache.images) < _MANY:
        return make()
    files = [cache.folder / f"{name}-{key}.npy" for name in names]
    if not all(file.exists() for file in files):
        found = make()
        try:
            for file, array in zip(files, found, strict=True):
                writing = file.with_suffix(f".{os.getpid()}.tmp")
                try:
                    with open(writing, "wb") as stream:
                        np.save(stream, array)
                    writing.replace(file)
                finally:
                    writing.unlink(missing_ok=True)
        except OSError:  # a folder of others, or a full disk
            return found
    return [mapped(file) for file in files]


def split(
    cache: Reader,
    fraction: float,
    seed: int,
    grouped: bool = True,
    by_images: bool = True,
    most: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the training and of the held-out images.

    Concepts are taken in the order of their hash with the seed; one is held out if the held-out images then are at most
    `fraction` of all. So the share falls short of it by less than the smallest concept left, and of new items few move
    old ones. Where no concept is small enough, a smallest one is held out. At least one concept goes each way.
    most: held-out images at the most. Concepts of more than a tenth of these are then taken last. Where the source has
    held out more, or the smallest concept is larger, some of them are taken and the others are on neither side.
    grouped=False: images stand alone, as of classes, unless the source itself names a concept. by_images=False: the
    rule of runs without `data.split_seed`, a concept is held out where its hash falls below the fraction.
    Raises UserError where there is nothing to train on, or nothing to hold out.
    """
    free = np.flatnonzero(cache.heldout < 0)
    heldout = cache.heldout == 1
    if len(free) == 0:  # the source has decided on all of them
        fraction = 0.0
    concepts, number, sizes = np.unique(
        (cache.concepts if grouped else cache.individuals)[free], return_inverse=True, return_counts=True
    )
    draw = noise.uniform(seed, "heldout", torch.from_numpy(concepts), 1)[:, 0].numpy()
    count = round(fraction * int(sizes.sum()))
    if by_images:
        largest = max(1, most // 10) if most else 0
        chosen = _share_of_images(draw, sizes, min(count, most or count), fraction > 0, largest)
    else:
        chosen = _share_of_concepts(draw, sizes, fraction)
    heldout[free] = chosen[number]
    if heldout.all() and len(free):
        heldout[free] = chosen[number] & (number != draw.argmax())
    if heldout.all():
        raise UserError("every image is held out, none is left to train on; lower data.heldout=")
    if fraction and not heldout.any():
        raise UserError(f"data.heldout={fraction}: no concept can be held out of this source; set data.heldout=0")
    train, measured = np.flatnonzero(~heldout), np.flatnonzero(heldout)
    if most is not None and len(measured) > most:
        order = noise.bits(seed, "fewer held out", torch.from_numpy(measured), 1)[:, 0].argsort(stable=True).numpy()
        measured = np.sort(measured[order[:most]])
    return train, measured


def _share_of_images(draw: np.ndarray, sizes: np.ndarray, count: int, some: bool, largest: int) -> np.ndarray:
    """(K,) bool of K concepts with these draws and numbers of images: `count` or a little fewer, one where `some`.

    largest: concepts of more images are taken last; 0 for none.
    """
    chosen = np.zeros(len(sizes), bool)
    left = min(max(1, count), int(sizes.sum()) - 1) if some else 0
    order = draw.argsort(kind="stable")
    order = order[np.argsort(sizes[order] > largest, kind="stable")] if largest else order
    if left and not (sizes <= left).any():
        chosen[order[sizes[order].argmin()]] = True
        return chosen
    while len(order := order[sizes[order] <= left]):
        total = sizes[order].cumsum()
        taken = np.searchsorted(total, left, side="right")  # at least one, as each of them fits
        chosen[order[:taken]] = True
        left, order = left - int(total[taken - 1]), order[taken:]
    return chosen


def _share_of_concepts(draw: np.ndarray, sizes: np.ndarray, fraction: float) -> np.ndarray:
    chosen = draw < fraction
    if fraction and len(chosen) and not chosen.any():
        chosen[draw.argmin()] = True
    return chosen
