"""Disk cache of text features: one folder an encoder, immutable shards in it, looked up by a hash of the caption.

A shard is a folder of three arrays, written under another name and renamed when complete. Readers need no lock.
Writers take one, so that the nodes of a cluster do not encode the same captions; where a file system has no locks, the
worst is a caption stored twice. Only real tokens are stored:
    rows.npy     (R, D) float16   for each caption its pooled vector, then its tokens
    offsets.npy  (n + 1,) int64   caption i owns rows[offsets[i] : offsets[i + 1]]
    keys.npy     (n,) uint64      hash of each caption

Limits: 2 D bytes for each token and one more (384 wide, 10 tokens: 8.4 KB a caption, 84 GB for 10 million); in memory
50 bytes a caption and one open file a shard; two of 10 million captions share a 64-bit key with probability 3e-6.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from trainer.errors import UserError
from trainer.process import caches
from trainer.process.locks import acquire
from trainer.process.progress import say
from trainer.text.features import map_rows

FORMAT = 1  # part of the folder's name, so that a new layout never meets old files
CAPTIONS_PER_SHARD = 65_536  # what a kill can lose; 10 million captions are 153 open files
STALE_SECONDS = 86_400  # half a shard that old was left by a killed process


def cache_root(cache_dir: str | Path | None) -> Path:
    """Where text features live: text/ in cache_dir, else in $TRAINER_CACHE, else in ~/.cache/trainer."""
    return (Path(os.path.expanduser(cache_dir)) if cache_dir else caches.root()) / "text"


def caption_keys(captions: Sequence[str]) -> np.ndarray:
    """(n,) uint64 key of each caption."""
    digests = (hashlib.blake2b(caption.encode(), digest_size=8).digest() for caption in captions)
    return np.frombuffer(b"".join(digests), "<u8")


class TextCache:
    """The shards under `folder`. An unreadable one is dropped with a warning, and its captions count as missing.

    shards: their folders. width: D of their features, None while there are none. UserError if they cannot be listed.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.width: int | None = None
        self.shards: list[Path] = []
        with self._disk_errors():
            found = sorted(folder.glob("shard-*"))
        opened = [arrays for shard in found if (arrays := self._open(shard))]
        # one index over all shards, sorted by key
        unsorted = np.concatenate([np.empty(0, np.uint64), *(keys for keys, _ in opened)])
        order = np.argsort(unsorted, kind="stable")
        self._keys = unsorted[order]
        self._shard = np.repeat(np.arange(len(opened), dtype=np.int32), [len(keys) for keys, _ in opened])[order]
        self._start = np.concatenate([np.empty(0, np.int64), *(offsets[:-1] for _, offsets in opened)])[order]
        self._stop = np.concatenate([np.empty(0, np.int64), *(offsets[1:] for _, offsets in opened)])[order]

    def locate(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(shard, start, stop), (n,) each: the rows of each key; shard is -1 for a caption that is not cached."""
        if not len(self._keys):
            return np.full(len(keys), -1, np.int32), np.zeros(len(keys), np.int64), np.zeros(len(keys), np.int64)
        at = np.searchsorted(self._keys, keys).clip(max=len(self._keys) - 1)
        shard = np.where(self._keys[at] == keys, self._shard[at], np.int32(-1))
        return shard, self._start[at], self._stop[at]

    def add(self, batches: Iterable[tuple[np.ndarray, np.ndarray]], num_rows: int, width: int) -> None:
        """Write a shard from batches of keys (n,) and features (n, 1 + length, D) float16, num_rows rows together.

        A cache opened from then on has it. UserError where the disk is full or read-only.
        """
        name = uuid.uuid4().hex[:12]
        writing = self.folder / f"writing-{name}"
        keys, lengths = [], []
        try:
            with self._disk_errors():
                writing.mkdir()
                # write(), not a writable map: on a full disk the one raises, the other kills the process
                with open(writing / "rows.npy", "wb") as file:
                    header = {"descr": "<f2", "fortran_order": False, "shape": (num_rows, width)}
                    np.lib.format.write_array_header_2_0(file, header)
                    for batch_keys, features in batches:
                        file.write(features.astype("<f2", order="C", copy=False).data)
                        keys.append(batch_keys)
                        lengths.append(np.full(len(batch_keys), features.shape[1]))
                    file.flush()
                    os.fsync(file.fileno())
                np.save(writing / "keys.npy", np.concatenate(keys))
                np.save(writing / "offsets.npy", np.cumsum(np.concatenate([[0], *lengths])))
                writing.rename(self.folder / f"shard-{name}")
        finally:
            shutil.rmtree(writing, ignore_errors=True)

    @contextlib.contextmanager
    def one_writer(self) -> Iterator[None]:
        """Hold the folder for writing, and clear what killed writers left. UserError if it cannot be written."""
        with self._disk_errors():
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = open(self.folder / "lock", "w")  # noqa: SIM115, closed below: not every error here is the disk's
        with lock:
            if acquire(lock, wait=False) is False:
                say(f"text: waiting for another process that encodes into {self.folder}")
                acquire(lock)
            for left in self.folder.glob("writing-*"):
                if time.time() - left.stat().st_mtime > STALE_SECONDS:
                    shutil.rmtree(left, ignore_errors=True)
            yield

    def _open(self, shard: Path) -> tuple[np.ndarray, np.ndarray] | None:
        try:
            keys, offsets, rows = np.load(shard / "keys.npy"), np.load(shard / "offsets.npy"), map_rows(shard)
            if offsets.shape != (len(keys) + 1,) or offsets[-1] != len(rows) or rows.dtype != np.float16:
                raise ValueError("its arrays do not fit together")
        except (OSError, ValueError, EOFError) as error:
            say(f"text: cache {shard} is unreadable ({error}): its captions are encoded again")
            if not isinstance(error, PermissionError):
                shutil.rmtree(shard, ignore_errors=True)
            return None
        self.width = rows.shape[1]
        self.shards.append(shard)
        return keys, offsets

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"text cache {self.folder}: {error.strerror or error}; free space or allow access there, "
                "or set text.encoder.cache_dir=/another/folder"
            ) from error
