"""An index in parts, each made whole by one process: what is done stays done, whoever is killed."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.build import CORRUPT, Told, fit, left_out, save, sides_of
from trainer.data.files import open_image, relative
from trainer.data.placed import KEPT, PLACE
from trainer.data.source import Item, Place, Source
from trainer.data.texts import write_texts
from trainer.errors import UserError
from trainer.process.locks import acquire
from trainer.process.progress import Progress
from trainer.size import Size

_PER_PART = 8192  # items of a source without shards
_CHUNK = 256  # pictures decoded at a time
_SMALL = 8  # pixels: enough to see that a picture is whole

Part = tuple[int, Callable[[], Iterable[Item]]]


def parts_of(source: Source) -> Iterator[Part]:
    """(number, items) of each part: a shard, or some thousand items."""
    if hasattr(source, "shards"):
        yield from ((number, partial(source.of, shard)) for number, shard in enumerate(source.shards()))  # type: ignore[attr-defined]
        return
    items, number = iter(source.items()), 0
    while some := list(islice(items, _PER_PART)):
        yield number, partial(iter, some)
        number += 1


def make_all(
    source: Source, folder: Path, progress: Progress | None, threads: int | None, stop: Callable[[], bool]
) -> int:
    """Makes the parts that no living process has; returns when all are there, or `stop`. How many pictures it read."""
    looked = 0
    base: str = source.base  # type: ignore[attr-defined]
    with unless(stop), ThreadPoolExecutor(threads or min(8, os.cpu_count() or 1)) as pool:
        (folder / "locks").mkdir(parents=True, exist_ok=True)
        while not stop():
            waits, total = False, 0
            for number, items in parts_of(source):
                total = number + 1
                if _part(folder, number).exists():
                    continue
                with _claim(folder, number) as mine:
                    if not mine:
                        waits = True
                    elif not _part(folder, number).exists():
                        for count in _make(items(), _part(folder, number), base, pool):
                            if progress:
                                progress(looked + count)
                        looked += count
            if not waits:
                _complete(folder, total)
                break
            while not stop() and any(_held(folder, n) for n in range(total) if not _part(folder, n).exists()):
                time.sleep(0.2)
    return looked


@contextmanager
def unless(done: Callable[[], bool]) -> Iterator[None]:
    """Others may be at the same work: once one of them has done it, its parts are gone from under the rest."""
    try:
        yield
    except OSError:
        if not done():
            raise


def made(folder: Path) -> list[Path]:
    """The folders of the parts, in their order."""
    return sorted(path for path in folder.iterdir() if path.name.isdigit())


def count_of(part: Path) -> int:
    """Its pictures."""
    return len(np.load(part / "heldout.npy", mmap_mode="r"))


def _part(folder: Path, number: int) -> Path:
    return folder / f"{number:07}"


def _complete(folder: Path, total: int) -> None:
    there = len(made(folder)) if folder.exists() else total
    if there > total:
        raise UserError(f"{folder}: {there} parts of {total}; delete this folder, it is built anew")


@contextmanager
def _claim(folder: Path, number: int) -> Iterator[bool]:
    """Whether this process, and no other that lives, makes the part."""
    with open(folder / "locks" / f"{number:07}", "w") as lock:
        taken = acquire(lock, wait=False)
        if taken:
            for left in folder.glob(f"{number:07}.building-*"):  # by one that was killed
                shutil.rmtree(left, ignore_errors=True)
        yield taken is not False


def _held(folder: Path, number: int) -> bool:
    with open(folder / "locks" / f"{number:07}", "w") as lock:
        return acquire(lock, wait=False) is False


def _make(items: Iterable[Item], part: Path, base: str, pool: ThreadPoolExecutor) -> Iterator[int]:
    """Writes a part; yields how many of its pictures have been looked at."""
    building = part.with_suffix(f".building-{uuid.uuid4().hex[:12]}")
    building.mkdir()
    try:
        yield from _write(items, building, base, pool)
        if not part.exists():  # without locks two may have made it
            building.rename(part)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _write(items: Iterable[Item], building: Path, base: str, pool: ThreadPoolExecutor) -> Iterator[int]:
    captions: dict[str, int] = {}
    images, sources = Plane(building, "", base, captions), Plane(building, "source_", base, captions)
    told = Told()
    sides: list[Size] = []
    records: list[str] = []
    skipped: list[str] = []
    stream, count = iter(items), 0
    while chunk := list(islice(stream, _CHUNK)):
        for item, found in zip(chunk, pool.map(_look, chunk), strict=True):
            count += 1
            if isinstance(found, Exception):
                skipped.append(left_out(item, found))
                continue
            sides.append(found)
            images.add(item)
            if item.source is not None:
                sources.add(item.source)
            if len(sources) not in (0, len(images)):
                raise UserError(f"{item.key}: some pictures have a source, others none; expected all or none")
            records.append(told.add(item))
        yield count
    if not count:
        yield 0
    images.save()
    if len(sources):
        sources.save()
    told.save(building)
    save(building / "sides.npy", np.array(sides, np.uint16).reshape(-1, 2))
    write_texts(building, "captions", captions)
    keys = b"".join(hashlib.blake2b(each.encode(errors="surrogatepass"), digest_size=16).digest() for each in captions)
    save(building / "caption_keys.npy", np.frombuffer(keys, np.uint64).reshape(-1, 2))
    write_texts(building, "records", records)
    (building / "skipped.txt").write_text("".join(skipped), encoding="utf-8", errors="surrogateescape")


def _look(item: Item) -> Size | Exception:
    """Height and width of the item's picture as it is seen, or why it, or its source, cannot be read."""
    found = []
    for each in (item, item.source):
        if each is None:
            continue
        if not each.captions:  # an empty one is a choice of the source
            raise UserError(f"{each.key}: image without a caption; give it one or remove it")
        try:
            image = open_image(BytesIO(each.place), _SMALL) if isinstance(each.place, bytes) else each.load(_SMALL)
            fit(image, _SMALL)
            found.append(sides_of(image))
        except UserError:
            raise
        except CORRUPT as error:
            return error
    return found[0]


class Plane:
    """One picture of each item: PREFIXplaces.npy, PREFIXfiles.utf8, PREFIXkept-0.bin, PREFIXcaption_ids.npy, ...

    captions: text -> number within the part, which planes share. base: the folder that files are named from.
    """

    def __init__(self, building: Path, prefix: str, base: str, captions: dict[str, int]) -> None:
        self.building, self.prefix, self.base, self.captions = building, prefix, base, captions
        self.places: list[tuple[int, int, int]] = []
        self.files: dict[str, int] = {}
        self.caption_ids: list[int] = []
        self.caption_starts = [0]
        self.kept = 0

    def __len__(self) -> int:
        return len(self.places)

    def add(self, item: Item) -> None:
        if isinstance(item.place, Place):
            file = self.files.setdefault(relative(item.place.file, self.base), len(self.files))
            self.places.append((file, item.place.size, item.place.offset))
        else:
            content: Any = item.place
            self.places.append((KEPT, len(content), self.kept))
            with open(self.building / f"{self.prefix}kept-0.bin", "ab") as file_of_kept:
                self.kept += file_of_kept.write(content)
        self.caption_ids += [self.captions.setdefault(caption, len(self.captions)) for caption in item.captions]
        self.caption_starts.append(len(self.caption_ids))

    def save(self) -> None:
        save(self.building / f"{self.prefix}places.npy", np.array(self.places, PLACE))
        write_texts(self.building, f"{self.prefix}files", self.files)
        save(self.building / f"{self.prefix}caption_ids.npy", np.array(self.caption_ids, np.int64))
        save(self.building / f"{self.prefix}caption_starts.npy", np.array(self.caption_starts, np.int64))
