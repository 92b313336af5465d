"""What files hold, wherever they lie and whenever they were written: read once, and known again by their times."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from trainer.data.files import Files, base_of
from trainer.data.remote import is_remote
from trainer.data.source import digest
from trainer.process import caches
from trainer.process.locks import acquire
from trainer.process.progress import Progress

_LARGE = 64 << 20  # bytes; each such file is remembered by itself, so that one more does not mean to read all again
_BLOCK = 1 << 20


def stamp(files: Files, *more: object) -> str:
    """Changes when a file comes, goes, moves among the others, or holds something else. Not with where and when.

    files: (bytes, modification time in ns) of each, see `find_files`. They are read where it is not known what they
    hold; that is remembered in `$TRAINER_CACHE/contents` by names, sizes and times, and asked again where one differs.
    In a store none is read: what it tells of them counts.
    """
    base = base_of(files)
    if is_remote(base):
        return digest(*more, *((file[len(base) :], *told) for file, told in files.items()))
    large = [[file] for file, (size, _) in files.items() if size >= _LARGE]
    groups = [*large, [file for file, (size, _) in files.items() if size < _LARGE]]
    keys = [digest(*((file[len(base) :], *files[file]) for file in group)) for group in groups]
    folder = caches.root() / "contents"
    known = {key: found for key in keys if (found := _known(folder / key))}
    if len(known) < len(keys):
        with _one_at_a_time(folder, digest(*keys)):
            unread = [group for group, key in zip(groups, keys, strict=True) if key not in known]
            size = sum(max(files[file][0], 0) for group in unread for file in group)
            progress, done = Progress("reading what the files hold:", "MiB", size >> 20), 0
            for group, key in zip(groups, keys, strict=True):
                if found := _known(folder / key):  # by another process, while we waited
                    known[key] = found
                    continue
                content = hashlib.blake2b(digest_size=16)
                for each, count in _read(group, files):
                    content.update(each)
                    done += count
                    progress(done >> 20)
                known[key] = content.hexdigest()
                _remember(folder / key, known[key])
    names = ((file[len(base) :], size) for file, (size, _) in files.items())
    return digest(*more, *names, *(known[key] for key in keys))


def _read(group: list[str], files: Files) -> Iterator[tuple[bytes, int]]:
    """(hash, bytes) of each file."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        for start in range(0, len(group), 1024):
            some = group[start : start + 1024]
            for file, each in zip(some, threads.map(_hash, some), strict=True):
                yield each, max(files[file][0], 0)


def _hash(file: str) -> bytes:
    content = hashlib.blake2b(digest_size=16)
    with suppress(OSError), open(file, "rb", buffering=0) as stream:  # what cannot be read is told where it is decoded
        while block := stream.read(_BLOCK):
            content.update(block)
    return content.digest()


def _known(file: Path) -> str:
    try:
        found = file.read_text()
    except OSError:
        return ""
    return found if len(found) == 32 else ""


def _remember(file: Path, content: str) -> None:
    writing = file.with_name(f".{file.name}-{uuid.uuid4().hex[:12]}")
    with suppress(OSError):  # it is read again next time
        writing.write_text(content)
        writing.replace(file)


@contextmanager
def _one_at_a_time(folder: Path, name: str) -> Iterator[None]:
    """Of the processes that ask for the same; as many as come where the folder cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / f"{name}.lock", "w")  # noqa: SIM115
    except OSError:
        yield
        return
    with lock:
        acquire(lock)
        yield
