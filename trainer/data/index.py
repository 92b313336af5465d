"""Where each picture of a source lies, and its captions, found once by any number of processes."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trainer.data import joining, parts
from trainer.data.cache import disk_errors, locked, open_cache, place
from trainer.data.placed import Placed
from trainer.data.reader import Pictures, Reader
from trainer.data.rows import damaged
from trainer.data.source import Source, digest
from trainer.data.texts import Texts, mapped
from trainer.errors import UserError
from trainer.process.caches import used
from trainer.process.progress import Progress, say
from trainer.size import Resolution, Size

_VERSION = 2  # raise it when the same source must be indexed anew


class Index:
    """A `Reader` of pictures that stay where they are: 20 bytes each, mapped, as all that is kept of them.

    sides: (N, 2) uint16, height and width of each picture as it is seen.
    base: the folder that the files of the source are named from, see `Source`.
    """

    def __init__(self, folder: Path, base: str, resolution: Resolution) -> None:
        self.folder, self.base, self.size = folder, base, Size.of(resolution)
        self.pictures = self._pictures("")
        self.images = self.pictures.images
        self.caption_ids, self.caption_starts = self.pictures.caption_ids, self.pictures.caption_starts
        self.sources = self._pictures("source_") if (folder / "source_places.npy").exists() else None
        self.captions = Texts(folder, "captions")
        self.concepts, self.individuals = (mapped(folder / f"{name}.npy") for name in ("concepts", "individuals"))
        self.heldout, self.sides = mapped(folder / "heldout.npy"), mapped(folder / "sides.npy")

    def _pictures(self, prefix: str) -> Pictures:
        ids, starts = (mapped(self.folder / f"{prefix}caption_{name}.npy") for name in ("ids", "starts"))
        return Pictures(Placed(self.folder, prefix, self.base, self.size), ids, starts)

    def __reduce__(self) -> tuple[Any, ...]:
        return Index, (self.folder, self.base, self.size)

    def at(self, resolution: Resolution) -> Index:
        return Index(self.folder, self.base, resolution)

    def records(self, indices: Iterable[int]) -> list[dict[str, Any]]:
        records = Texts(self.folder, "records")
        return [json.loads(records[int(index)]) for index in indices]

    def beside(self, name: str) -> Path:
        return self.folder / f"{self.size}px-{name}"  # it is of all resolutions


def index_folder(source: Source, cache_dir: str | Path) -> Path:
    name = type(source).__name__.lower()
    if not hasattr(source, "base"):
        raise UserError(f"data.decoded=false: data of {name} lie in no files of pictures; expected true, as it was")
    return Path(cache_dir).expanduser() / f"{name}-index-{digest(_VERSION, source.fingerprint())}"


def open_index(source: Source, resolution: Resolution, cache_dir: str | Path) -> Index:
    """The source's index, built first where there is none; by any number of processes at once, which share the work.

    Every picture is decoded once, to leave out what is corrupt; what a killed process has done counts.
    Raises UserError where an image has no caption, none can be read, cache_dir cannot be written, or what is there is
    not as it was written.
    """
    folder = index_folder(source, cache_dir)
    if not folder.exists():
        build(source, folder)
    used(folder)
    try:
        return Index(folder, str(source.base), resolution)  # type: ignore[attr-defined]
    except (ValueError, EOFError, FileNotFoundError) as error:
        raise damaged(folder, str(error)) from error


def open_reader(source: Source, resolution: Resolution, cache_dir: str | Path, decoded: bool) -> Reader:
    """The source's cache, or its index where nothing is decoded beforehand (`data.decoded`)."""
    return (open_cache if decoded else open_index)(source, resolution, cache_dir)


def build(source: Source, folder: Path, threads: int | None = None, tell: bool = True) -> int:
    """Makes the index, or helps those that do; the number of pictures that this process has looked at.

    threads: that decode; None for one a core. tell: its progress.
    """
    progress = Progress(f"indexing {folder.name}:", "pictures") if tell else None
    unfinished = folder.with_suffix(".parts")
    with disk_errors(folder.parent):
        done = parts.make_all(source, unfinished, progress, threads, stop=folder.exists)
    with locked(folder.with_suffix(".lock")) as alone:
        if not folder.exists():
            building = folder.with_suffix(f".building-{uuid.uuid4().hex[:12]}")
            for left in folder.parent.glob(f"{folder.name}.building-*") if alone else ():  # by one that was killed
                shutil.rmtree(left, ignore_errors=True)
            try:
                with disk_errors(folder.parent), parts.unless(folder.exists):
                    building.mkdir()
                    joining.join(unfinished, building, folder.name)
                    place(building, folder)
            finally:
                shutil.rmtree(building, ignore_errors=True)
            if num_skipped := len((folder / "skipped.txt").read_bytes().splitlines()):
                say(f"{num_skipped} corrupt images skipped, listed in {folder / 'skipped.txt'}")
        shutil.rmtree(unfinished, ignore_errors=True)
    return done
