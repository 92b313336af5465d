"""Images decoded once into a file of uint8 pixels, beside their captions: finding, opening and reading it."""

from __future__ import annotations

import errno
import json
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data import checksums
from trainer.data.build import write_cache
from trainer.data.reader import Pictures
from trainer.data.rows import Rows, damaged
from trainer.data.source import Source, digest
from trainer.errors import UserError
from trainer.process.caches import used
from trainer.process.locks import acquire
from trainer.process.progress import say
from trainer.size import Resolution, Size

_VERSION = 2  # raise it when the same source must be decoded anew
_FULL_OR_CLOSED = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENOENT, errno.ENOTEMPTY),
}
_STALE_SECONDS = 86_400  # half a cache that old was left by a killed process


class Cache:
    """The decoded images of one source at one resolution; N images, K distinct captions.

    images: (N, H, W, 3) uint8, read from the file as they are asked for.
    captions: the K distinct captions, in order of first use.
    caption_ids: the caption numbers of image i are caption_ids[caption_starts[i] : caption_starts[i + 1]].
    concepts: (N,) int64 hash of each image's concept.
    individuals: (N,) int64 hash of the concept where the source names one, else of the image's own key.
    heldout: (N,) int8; 1 held out, 0 training, -1 for the concept to decide.
    sources: what the images of a translation start from, in the same order, with captions of their own; None elsewhere.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pictures = self._pictures("")
        self.images = self.pictures.images
        self.caption_ids, self.caption_starts = self.pictures.caption_ids, self.pictures.caption_starts
        self.sources = self._pictures("source_") if (folder / "source_images.npy").exists() else None
        self.concepts: np.ndarray = np.load(folder / "concepts.npy")
        self.individuals: np.ndarray = np.load(folder / "individuals.npy")
        self.heldout: np.ndarray = np.load(folder / "heldout.npy")

    def _pictures(self, prefix: str) -> Pictures:
        ids, starts = (np.load(self.folder / f"{prefix}caption_{name}.npy") for name in ("ids", "starts"))
        return Pictures(Rows(self.folder / f"{prefix}images.npy"), ids, starts)

    def __reduce__(self) -> tuple[Any, ...]:
        return Cache, (self.folder,)  # a worker opens the files itself

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

    def beside(self, name: str) -> Path:
        return self.folder / name


def cache_folder(source: Source, resolution: Resolution, cache_dir: str | Path) -> Path:
    name = type(source).__name__.lower()
    return Path(cache_dir).expanduser() / f"{name}-{Size.of(resolution)}px-{digest(_VERSION, source.fingerprint())}"


def open_cache(source: Source, resolution: Resolution, cache_dir: str | Path) -> Cache:
    """The source's cache at this resolution, built first where there is none.

    Safe to call from any number of processes: one builds, the others wait for it.
    Raises UserError where an image has no caption, none can be read, cache_dir cannot be written, or what is there is
    not as it was written.
    """
    folder = cache_folder(source, resolution, cache_dir)
    if not folder.exists():
        with disk_errors(folder.parent):
            folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.with_suffix(".lock")) as alone:
            if not folder.exists():
                _build(source, resolution, folder, alone)
    used(folder)
    try:
        cache = Cache(folder)
        for prefix in ("", "source_"):
            if (written := folder / f"{prefix}{checksums.FILE}").exists():  # older caches have none
                checksums.compare(Rows(folder / f"{prefix}images.npy"), np.load(written))
        return cache
    except (ValueError, EOFError, FileNotFoundError) as error:  # the build is atomic, so the disk or somebody did it
        raise damaged(folder, str(error)) from error


def _build(source: Source, resolution: Resolution, folder: Path, alone: bool) -> None:
    """alone: no other process builds it at this moment, so that what stands there was left by one that was killed."""
    building = folder.with_suffix(f".building-{uuid.uuid4().hex[:12]}")
    for left in folder.parent.glob(f"{folder.name}.building*"):
        with suppress(FileNotFoundError):
            if alone or time.time() - left.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
    try:
        with disk_errors(folder.parent):
            building.mkdir()
            num_skipped = write_cache(source, resolution, building, folder.name)
            place(building, folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    if num_skipped:
        say(f"{num_skipped} corrupt images skipped, listed in {folder / 'skipped.txt'}")


def place(building: Path, folder: Path) -> None:
    try:
        building.rename(folder)
    except OSError as error:  # where there are no locks, or over NFS: another node was quicker, with the same content
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not (folder / "heldout.npy").is_file():
            raise


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """One process at a time; yields whether that is so, which a file system without locks cannot tell."""
    with ExitStack() as opened:
        with disk_errors(path.parent):
            file = opened.enter_context(open(path, "w"))
        yield acquire(file) is True


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        file = Path(str(error.filename or folder))
        ours = file.is_relative_to(folder) or folder.is_relative_to(file)
        if error.errno not in _FULL_OR_CLOSED or not ours:  # a file of the source has its own remedy
            raise
        remedy = "free space or choose another place with data.cache_dir="
        raise UserError(f"{folder}: {error.strerror}; {remedy}") from error
