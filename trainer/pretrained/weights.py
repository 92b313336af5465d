"""Weight files: where they are, how they get there, and that they are the right ones."""

from __future__ import annotations

import contextlib
import hashlib
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from trainer.errors import UserError
from trainer.process import caches
from trainer.process.locks import acquire
from trainer.process.progress import Progress, say

TIMEOUT_SECONDS = 10.0
_MIB = 2**20


def folder() -> Path:
    """Where weight files are kept: weights/ in $TRAINER_CACHE, else in ~/.cache/trainer."""
    return caches.root() / "weights"


def find(url: str, digest: str, key: str, path: str | None = None) -> Path:
    """The file of a URL: at `path` if given, else in `folder()`, fetched once if it is not there.

    digest: its sha256 in hex, verified each time. key: the setting that `path` came from, for the messages.
    UserError: altered, cut short, absent or out of reach, disk full.
    """
    if path is not None:
        file = Path(path).expanduser()
        if not file.is_file():
            raise UserError(f"{key}={path}: no such file; expected a copy of {url}")
        return _verified(file, digest, f"{key} must be a copy of {url}")
    file = folder() / url.rpartition("/")[2]
    if not file.is_file():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with _one_at_a_time(file):
                if not file.is_file():  # another process may have fetched it while we waited
                    _fetch(url, digest, file)
        except OSError as error:  # the client's errors are OSErrors too
            reason = getattr(error, "reason", None) or error.strerror or error
            raise UserError(f"{url}: {reason}; put a copy at {file} or set {key}=/path/of/one") from error
    return _verified(file, digest, "delete it to have it fetched again")


def sha256(file: Path) -> str:
    """Hex digest of a file."""
    sha = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(4 * _MIB):
            sha.update(block)
    return sha.hexdigest()


def _verified(file: Path, digest: str, remedy: str) -> Path:
    found = sha256(file)
    if found != digest:
        raise UserError(f"{file}: sha256 {found[:12]}, expected {digest[:12]}; {remedy}")
    return file


def _fetch(url: str, digest: str, file: Path) -> None:
    """Whole and verified, or not at all."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    sha = hashlib.sha256()
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response, open(temporary, "wb") as stream:
            total = int(response.headers.get("Content-Length") or 0)
            say(f"fetching {url}, {total / _MIB:,.0f} MiB, once, into {file.parent}")
            progress = Progress(f"{file.name}: fetched", "MiB", total // _MIB)
            while block := response.read(_MIB):
                stream.write(block)
                sha.update(block)
                progress(stream.tell() // _MIB)
            size = stream.tell()
        if sha.hexdigest() != digest:
            of = f"{size:,} of {total:,} bytes" if size < total else f"sha256 {sha.hexdigest()[:12]}, not {digest[:12]}"
            raise UserError(f"{url} gave {of}; try again, or put a copy at {file}")
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _one_at_a_time(file: Path) -> Iterator[None]:
    """The ranks of a machine fetch once. Where a file system has no locks, each fetches, and the last one stays."""
    with open(file.with_name(f".{file.name}.lock"), "w") as lock:
        acquire(lock)
        yield
