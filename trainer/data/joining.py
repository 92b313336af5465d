"""From the parts of an index to one: captions that are alike get one number, as if one process had read all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from trainer.data import parts
from trainer.data.build import nothing, save
from trainer.data.placed import KEPT
from trainer.data.texts import Texts, mapped
from trainer.errors import UserError


def join(unfinished: Path, building: Path, name: str) -> None:
    """Writes the index of all parts of the folder `unfinished` into `building`; UserError without a picture."""
    made = parts.made(unfinished)
    with open(building / "skipped.txt", "wb") as skipped:
        for part in made:
            skipped.write((part / "skipped.txt").read_bytes())
    made = [part for part in made if parts.count_of(part)]
    if not made:
        lines = (building / "skipped.txt").read_text(encoding="utf-8", errors="replace").splitlines()
        raise nothing(name, len(lines), lines[-1] if lines else "")
    for array in ("concepts", "individuals", "heldout", "sides"):
        save(building / f"{array}.npy", np.concatenate([mapped(part / f"{array}.npy") for part in made]))
    _texts(made, building, "records")
    numbers = _captions(made, building)
    with_source = sum((part / "source_places.npy").exists() for part in made)
    if with_source not in (0, len(made)):
        raise UserError(f"{name}: some pictures have a source, others none; expected all or none")
    for prefix in ("", "source_")[: 1 + bool(with_source)]:
        _plane(made, building, prefix, numbers)


def numbered(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the keys (K, 2) uint64 of K texts: which is the first of its kind (K,) bool, and its number among these (K,).

    Numbers are in order of first use. Texts of one key are one.
    """
    order = np.lexsort((keys[:, 1], keys[:, 0]))  # stable: of those alike the first comes first
    new = np.ones(len(keys), bool)
    new[1:] = (keys[order[1:]] != keys[order[:-1]]).any(1)
    first = np.zeros(len(keys), bool)
    first[order[new]] = True
    rank = np.cumsum(first) - 1
    number = np.empty(len(keys), np.int64)
    number[order] = rank[order[new]][np.cumsum(new) - 1]
    return first, number


def _captions(made: list[Path], building: Path) -> list[np.ndarray]:
    """Writes the distinct captions; of each part, the number that each of its captions has among them."""
    keys = [mapped(part / "caption_keys.npy") for part in made]
    first, number = numbered(np.concatenate(keys))
    ends = np.cumsum([len(each) for each in keys])[:-1]
    _texts(made, building, "captions", np.split(first, ends))
    return np.split(number, ends)


def _texts(made: list[Path], building: Path, name: str, chosen: list[np.ndarray] | None = None) -> None:
    """The texts of all parts, or those that are chosen (K,) bool of each."""
    sizes = [np.zeros(1, np.int64)]
    with open(building / f"{name}.utf8", "wb") as file:
        for place, part in enumerate(made):
            texts = Texts(part, name)
            size, kept = np.diff(texts.starts), slice(None) if chosen is None else chosen[place]
            file.writelines(_contents(texts, None if chosen is None else chosen[place]))
            sizes.append(size[kept])
    save(building / f"{name}_starts.npy", np.cumsum(np.concatenate(sizes), dtype=np.int64))


def _contents(texts: Texts, chosen: np.ndarray | None) -> Iterator[bytes]:
    if chosen is None or chosen.all():
        yield texts.content(0, len(texts))
        return
    edges = np.flatnonzero(np.diff(np.concatenate([[0], chosen.astype(np.int8), [0]]))).tolist()
    for begin, end in zip(edges[::2], edges[1::2], strict=True):  # runs of chosen ones
        yield texts.content(begin, end)


def _plane(made: list[Path], building: Path, prefix: str, numbers: list[np.ndarray]) -> None:
    _texts(made, building, f"{prefix}files")
    places, ids, starts, files, last = [], [], [np.zeros(1, np.int64)], 0, 0
    for number, part in enumerate(made):
        place = mapped(part / f"{prefix}places.npy").copy()
        kept = place["file"] >= KEPT
        place["file"] += np.where(kept, number, files).astype(np.uint32)
        if kept.any():
            _keep(part / f"{prefix}kept-0.bin", building / f"{prefix}kept-{number}.bin")
        places.append(place)
        ids.append(numbers[number][mapped(part / f"{prefix}caption_ids.npy")])
        starts.append(mapped(part / f"{prefix}caption_starts.npy")[1:] + last)
        files, last = files + len(Texts(part, f"{prefix}files")), last + len(ids[-1])
    save(building / f"{prefix}places.npy", np.concatenate(places))
    save(building / f"{prefix}caption_ids.npy", np.concatenate(ids))
    save(building / f"{prefix}caption_starts.npy", np.concatenate(starts))


def _keep(file: Path, new: Path) -> None:
    """The same file under another name; a copy where a file system has no links: a part must stay until all is done."""
    try:
        os.link(file, new)
    except OSError:
        shutil.copyfile(file, new)
