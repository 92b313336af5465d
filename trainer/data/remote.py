"""Files of a store that fsspec reaches, as s3://, https:// and hf://: read by ranges of bytes, several at once."""

from __future__ import annotations

import io
import logging
import os
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any

from trainer.errors import UserError
from trainer.process.distribution import install
from trainer.process.progress import say

Range = tuple[str, int, int]  # file, first byte, byte behind the last

WAITS = (1, 3, 9, 27)  # seconds before a request is made again
_BLOCK = 8 << 20  # bytes that one request asks for at most
_GAP = 128 << 10  # bytes that are read for nothing rather than by one more request
_AT_ONCE = 16  # requests of a process
_SECONDS = 60.0  # until a request counts as lost
_LATER = (408, 425, 429)  # of HTTP's 4xx, those that another time may answer
_told = 0.0


def is_remote(path: str) -> bool:
    return re.match(r"[A-Za-z][\w+.-]*://", path) is not None


def read_all(wanted: Sequence[Range]) -> list[bytes]:
    """The bytes of each range. Those that nearly touch are read by one request."""
    together: list[tuple[Range, list[int]]] = []
    for number in sorted(range(len(wanted)), key=wanted.__getitem__):
        file, start, end = wanted[number]
        if together:
            (before, first, last), numbers = together[-1]
            if file == before and start - last <= _GAP and end - first <= _BLOCK:
                together[-1] = (file, first, max(end, last)), [*numbers, number]
                continue
        together.append(((file, start, end), [number]))
    contents = [b""] * len(wanted)
    found = threads().map(lambda each: read(*each[0]), together)
    for ((_, first, _), numbers), content in zip(together, found, strict=True):
        for number in numbers:
            contents[number] = content[wanted[number][1] - first : wanted[number][2] - first]
    return contents


def read(file: str, start: int, end: int) -> bytes:
    alone: dict[str, Any] = {} if opened(file)[0].async_impl else {"cache_type": "none"}  # else 5 MiB are read ahead
    content: bytes = asked(file, "cat_file", start=start, end=end, **alone)
    if len(content) > end - start:
        raise UserError(f"{file}: its server sends whole files, no ranges of bytes; copy it to a disk or another store")
    if len(content) < end - start:
        was = f"ends at byte {start + len(content):,}, before {end:,}"
        raise UserError(f"{file}: {was}: it has changed; the same command begins anew with what it is now")
    return content


class RemoteFile(io.RawIOBase):
    """A file of a store as a binary file, read in large pieces. ahead: from end to end, the next piece meanwhile."""

    def __init__(self, file: str, ahead: bool = False) -> None:
        self.name, self.ahead = file, ahead
        self.size = int(asked(file, "info")["size"])
        self.at, self.start, self.piece = 0, 0, b""
        self.next: Future[bytes] | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.size}[whence]
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer: Any) -> int:
        if not self.start <= self.at < self.start + len(self.piece):
            self._load(_BLOCK if self.ahead else min(len(buffer), _BLOCK))
        found = self.piece[self.at - self.start :][: len(buffer)]
        buffer[: len(found)] = found
        self.at += len(found)
        return len(found)

    def _load(self, count: int) -> None:
        goes_on, end = self.at == self.start + len(self.piece), min(self.at + count, self.size)
        if self.next is not None and goes_on:
            self.piece = self.next.result()
        else:
            self.piece = read(self.name, self.at, end) if end > self.at else b""
        self.start, self.next = self.at, None
        if self.ahead and end < self.size:
            self.next = threads().submit(read, self.name, end, min(end + _BLOCK, self.size))


def asked(file: str, method: str, limited: bool = True, **options: Any) -> Any:
    """What the file's system answers to a method; it may fail a few times.

    limited: in time, where a system can be. Raises UserError where asking again is of no use, or was of none.
    """
    global _told
    system, inside = opened(file)
    if limited and system.async_impl:
        options["timeout"] = _SECONDS
    for wait in (*WAITS, None):
        try:
            return getattr(system, method)(inside, **options)
        except Exception as error:  # of any package that fsspec stands on
            reason, again = _why(file, error)
            if wait is None or not again:
                remedy = "see that the store answers, and start again"
                raise UserError(f"{file}: cannot be read: {reason}; {remedy}") from error
            if time.monotonic() - _told > 1:  # many requests fail at once
                _told = time.monotonic()
                say(f"{file}: {reason}; asked again in {wait} s")
            time.sleep(wait)


def _why(file: str, error: BaseException) -> tuple[str, bool]:
    """The reason, and whether another time may do. UserError for what the user can mend."""
    causes = [*_causes(error)]
    status = next(filter(None, map(_status, causes)), 0)
    reason = " ".join(str(causes[-1]).split()) or f"no answer in {_SECONDS:.0f} s"
    if status in (404, 410) or (not status and isinstance(causes[-1], FileNotFoundError)):
        raise UserError(f"{file}: there is no such file; data.source.path= says where your data lie") from error
    if status in (401, 403) or isinstance(error, PermissionError) or "Credential" in type(error).__name__:
        remedy = "give the account of one who may read it, or none where all may: see docs/data.md"
        raise UserError(f"{file}: no permission to read it ({reason}); {remedy}") from error
    return reason, not 400 <= status < 500 or status in _LATER


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _status(error: BaseException) -> int:
    """HTTP's status in an error of aiohttp, botocore, requests or httpx; 0 without."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    found = getattr(error, "status", None) or getattr(response, "status_code", None)
    return found if isinstance(found, int) else 0


def opened(file: str) -> tuple[Any, str]:
    """The file system of a file, and the file's name in it; in each process one of its own.

    Raises UserError where fsspec knows none, or its package is not there.
    """
    protocol = file.partition("://")[0]
    try:
        system, inside = _fsspec().core.url_to_fs(file)
    except ImportError as error:
        how = f"; {install('remote')}" if protocol in ("http", "https", "s3") else ""
        raise UserError(f"data.source.path={file}: {error}{how}") from error
    except ValueError as error:
        remedy = "expected s3://, https://, gs://, hf:// or another of fsspec's"
        raise UserError(f"data.source.path={file}: {error}; {remedy}") from error
    _kept[id(system)] = system
    return system, inside


_kept: dict[int, Any] = {}  # a fork that lets go of its parent's takes their connections out of the epoll they share


@cache
def _fsspec() -> Any:
    import fsspec
    from fsspec import asyn

    for library in ("aiobotocore", "botocore"):  # which tell where they found an account, in each process
        logging.getLogger(library).setLevel(logging.WARNING)
    os.register_at_fork(after_in_child=asyn.reset_lock)  # with its loop and thread, which a fork has not
    return fsspec


def threads() -> ThreadPoolExecutor:
    """Those that ask, of this process: a fork has none of them."""
    return _threads(os.getpid())


@cache
def _threads(process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_AT_ONCE)
