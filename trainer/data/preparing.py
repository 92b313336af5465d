"""An index made by several processes of a machine, and what of all that was made nobody has used for long."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

from trainer.data import index, parts
from trainer.data.source import Source
from trainer.errors import UserError
from trainer.process import caches
from trainer.process.progress import Progress, say

_DAY = 86_400


def build_together(source: Source, folder: Path, count: int) -> None:
    """The index at `folder` by `count` processes, each with a thread; UserError of one ends all."""
    context = get_context("fork")
    left: dict[Any, Any] = {}
    for _ in range(count):
        mine, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_share, args=(source, folder, theirs), daemon=True)
        process.start()
        theirs.close()
        left[mine] = process
    processes = [*left.values()]
    progress, done = Progress(f"indexing {folder.name} by {count} processes:", "pictures"), _Done(folder)
    try:
        while left:
            for ready in wait([*left], timeout=1):
                found, process = _received(ready), left.pop(ready)
                if isinstance(found, UserError):
                    raise found
                process.join()
                if process.exitcode:
                    say(f"a process ended with {process.exitcode}; the others do its part")
            progress(done())
    finally:
        for process in processes:
            process.terminate()
            process.join()
    if not folder.exists():
        raise UserError(f"{folder} is not there: all processes ended; the same command goes on")


def _share(source: Source, folder: Path, told: Connection) -> None:
    try:
        told.send(index.build(source, folder, threads=1, tell=False))
    except UserError as error:
        told.send(error)


def _received(connection: Any) -> Any:
    try:
        return connection.recv()
    except EOFError:  # it was killed
        return None


class _Done:
    """How many pictures are in the parts that are there, whoever made them."""

    def __init__(self, folder: Path) -> None:
        self.unfinished = folder.with_suffix(".parts")
        self.counts: dict[Path, int] = {}

    def __call__(self) -> int:
        try:
            for part in parts.made(self.unfinished):
                if part not in self.counts:
                    self.counts[part] = parts.count_of(part)
        except FileNotFoundError:  # joined
            pass
        return sum(self.counts.values())


class Kept(NamedTuple):
    path: Path
    size: int  # bytes
    days: float  # since a run has opened it, or anybody went on with it
    whole: bool


def kept(cache_dir: str | Path) -> list[Kept]:
    """Caches and indices, and what is unfinished, the longest unused first."""
    root = Path(cache_dir).expanduser()
    found = []
    for folder in [path for path in root.iterdir() if path.is_dir()] if root.is_dir() else []:
        whole = (folder / "heldout.npy").is_file() and (folder / "concepts.npy").is_file()
        if whole or ".building-" in folder.name or (folder.suffix == ".parts" and (folder / "locks").is_dir()):
            with suppress(FileNotFoundError):  # others finish or remove it meanwhile
                size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
                days = (time.time() - folder.stat().st_mtime) / _DAY
                found.append(Kept(folder, size, days, whole and ".building-" not in folder.name))
    return sorted(found, key=lambda each: -each.days)


def programs() -> Iterator[Kept]:
    """What passes have compiled for this machine, which is made anew where it is gone; the longest unused first."""
    files = [path for kind in ("onnxruntime", "aot") for path in (caches.root() / kind).glob("*.*") if path.is_file()]
    for path in sorted(files, key=lambda path: path.stat().st_mtime):
        yield Kept(path, path.stat().st_size, (time.time() - path.stat().st_mtime) / _DAY, whole=True)


def remove(each: Kept) -> None:
    if each.path.is_file():
        each.path.unlink()
        return
    shutil.rmtree(each.path, ignore_errors=True)
    each.path.with_suffix(".lock").unlink(missing_ok=True)
