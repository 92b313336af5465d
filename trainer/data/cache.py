"""Images decoded once into a memory-mapped uint8 array, beside their captions."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from operator import length_hint
from pathlib import Path
from struct import error as StructError
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from trainer.data.source import Item, Source, digest
from trainer.errors import UserError

_VERSION = 1  # raise it when the same source must be decoded anew
_CHUNK = 512  # images decoded before a write, so memory stays flat for sources of any length
_CORRUPT = (OSError, SyntaxError, ValueError, EOFError, StructError, Image.DecompressionBombError)
_DISK = {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST}


class Cache:
    """The decoded images of one source at one resolution; N images, K distinct captions.

    images: (N, H, W, 3) uint8, memory-mapped read-only.
    captions: the K distinct captions, in order of first use.
    caption_ids: the caption numbers of image i are caption_ids[caption_starts[i] : caption_starts[i + 1]].
    concepts: (N,) int64 hash of each image's concept.
    heldout: (N,) int8; 1 held out, 0 training, -1 for the concept to decide.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # A plain array over the mapping: indexing numpy's memmap subclass costs more than the copy of a small image.
        self.images: np.ndarray = np.asarray(np.load(folder / "images.npy", mmap_mode="r"))
        self.caption_ids: np.ndarray = np.load(folder / "caption_ids.npy")
        self.caption_starts: np.ndarray = np.load(folder / "caption_starts.npy")
        self.concepts: np.ndarray = np.load(folder / "concepts.npy")
        self.heldout: np.ndarray = np.load(folder / "heldout.npy")

    def __reduce__(self) -> tuple[Any, ...]:
        return Cache, (self.folder,)  # a worker maps the file itself; pickling the array would copy every image

    @property
    def captions(self) -> list[str]:
        return json.loads((self.folder / "captions.json").read_text(encoding="utf-8"))

    def records(self, indices: Iterable[int]) -> list[dict[str, Any]]:
        """key, captions, concept, attributes and heldout of these images, in this order."""
        wanted = list(map(int, indices))
        chosen = set(wanted)
        with open(self.folder / "records.jsonl", encoding="utf-8") as lines:
            found = {number: json.loads(line) for number, line in enumerate(lines) if number in chosen}
        return [found[number] for number in wanted]


def open_cache(source: Source, resolution: int, cache_dir: str | Path) -> Cache:
    """The source's cache at (resolution, resolution), built first where there is none.

    Safe to call from any number of processes: one builds, the others wait for it.
    Raises UserError where an image has no caption, none can be read, or cache_dir cannot be written.
    """
    name = type(source).__name__.lower()
    folder = Path(cache_dir).expanduser() / f"{name}-{resolution}px-{digest(_VERSION, source.fingerprint())}"
    if not folder.exists():
        with _disk_errors(folder.parent):
            folder.parent.mkdir(parents=True, exist_ok=True)
        with _lock(folder.with_suffix(".lock")):
            if not folder.exists():
                _build(source, resolution, folder)
    return Cache(folder)


def _build(source: Source, resolution: int, folder: Path) -> None:
    building = folder.with_suffix(".building")
    shutil.rmtree(building, ignore_errors=True)  # left by a killed process; the lock says that none is at work
    try:
        with _disk_errors(folder.parent):
            building.mkdir()
            num_images, num_skipped = _write(source, resolution, building, folder.name)
        if not num_images:
            raise UserError(f"{folder.name}: none of its {num_skipped} images can be read; check the source's files")
        with _disk_errors(folder.parent):
            building.rename(folder)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    if num_skipped:
        print(f"{num_skipped} corrupt images skipped, listed in {folder / 'skipped.txt'}", file=sys.stderr)


def _write(source: Source, resolution: int, building: Path, name: str) -> tuple[int, int]:
    captions: dict[str, int] = {}
    caption_ids: list[int] = []
    caption_starts, concepts, heldout, num_skipped = [0], [], [], 0
    items = source.items()
    progress = _Progress(name, length_hint(items, 0))
    with (
        open(building / "images.npy", "wb") as images,
        open(building / "records.jsonl", "w", encoding="utf-8") as records,
        open(building / "skipped.txt", "w", encoding="utf-8") as skipped,
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads,
    ):
        _header(images, 0, resolution)
        stream = iter(items)
        while chunk := list(islice(stream, _CHUNK)):
            for item, pixels in zip(chunk, threads.map(lambda item: _decode(item, resolution), chunk), strict=True):
                if isinstance(pixels, Exception):
                    num_skipped += 1
                    skipped.write(f"{item.key}\t{type(pixels).__name__}: {pixels}\n")
                    continue
                images.write(pixels.tobytes())
                caption_ids += [captions.setdefault(caption, len(captions)) for caption in item.captions]
                caption_starts.append(len(caption_ids))
                concepts.append(int(digest(item.concept), 16) - (1 << 63))
                heldout.append(-1 if item.heldout is None else int(item.heldout))
                record = {"key": item.key, "captions": item.captions, "concept": item.concept}
                record |= {"attributes": item.attributes, "heldout": item.heldout}
                records.write(json.dumps(record, ensure_ascii=False) + "\n")
            progress.show(len(heldout) + num_skipped)
        _header(images, len(heldout), resolution)
    np.save(building / "caption_ids.npy", np.array(caption_ids, np.int64))
    np.save(building / "caption_starts.npy", np.array(caption_starts, np.int64))
    np.save(building / "concepts.npy", np.array(concepts, np.int64))
    np.save(building / "heldout.npy", np.array(heldout, np.int8))
    (building / "captions.json").write_text(json.dumps(list(captions), ensure_ascii=False), encoding="utf-8")
    return len(heldout), num_skipped


def _header(file: Any, num_images: int, resolution: int) -> None:
    """The .npy header; numpy pads it so that the first axis can grow without moving the data."""
    shape = (num_images, resolution, resolution, 3)
    file.seek(0)
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _decode(item: Item, resolution: int) -> np.ndarray | Exception:
    if not item.captions or not all(caption.strip() for caption in item.captions):
        raise UserError(f"{item.key}: image without a caption; give it one or remove it")
    try:
        return np.asarray(fit(item.load(resolution), resolution))
    except UserError:
        raise
    except _CORRUPT as error:
        return error


def fit(image: Image.Image, resolution: int) -> Image.Image:
    """RGB at (resolution, resolution): upright, transparency on white, centre square, area-true resize."""
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    if image.size == (resolution, resolution):
        return image
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return image.resize((resolution, resolution), Image.Resampling.LANCZOS, box, reducing_gap=3)


class _Progress:
    """A line every two seconds: rewritten on a terminal, a new one elsewhere."""

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total, self.start = name, total, time.monotonic()
        self.shown = self.start

    def show(self, done: int) -> None:
        now = time.monotonic()
        if now - self.shown < 2:
            return
        self.shown = now
        of = f"/{self.total:,}" if self.total else ""
        line = f"caching {self.name}: {done:,}{of} images, {done / (now - self.start):,.0f}/s"
        end = "\r" if sys.stderr.isatty() and done != self.total else "\n"
        print(line, end=end, file=sys.stderr, flush=True)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """One process at a time. The system drops the lock of a killed process, so it is never stale."""
    import fcntl

    with _disk_errors(path.parent):
        file = open(path, "w")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK:
            raise
        raise UserError(f"{folder}: {error.strerror}; free space or choose another place with data.cache_dir=") from error
