"""Checkpoints as files: their names, their order, and whether they are whole. Read without torch."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
import stat
import struct
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from trainer.pretrained.weights import sha256
from trainer.process.progress import Progress
from trainer.runs.export_files import MODELS, SETTINGS

_MIB = 2**20
_LOCAL_HEADER = 30  # bytes of a zip record before its name
_known: dict[tuple[Any, ...], str | None] = {}  # file, as it was -> what is wrong with it


def kimg_name(images_seen: int) -> str:
    """The stem of what a run saves: 12800 images are `kimg000012.800`. Sort by `images_of`, not by name."""
    return f"kimg{images_seen / 1000:010.3f}"


def images_of(path: Path) -> int:
    """The images seen that a name tells; -1 where it tells none, as best.ckpt."""
    found = re.match(r"kimg(\d+)\.(\d{3})(?=\.|$)", path.name)
    return int(found[1] + found[2]) if found else -1


def in_order(folder: Path, suffix: str = ".ckpt") -> list[Path]:
    """What a run has numbered in a folder, checkpoints or .png grids, the oldest first."""
    return sorted((path for path in folder.glob(f"kimg*{suffix}") if images_of(path) >= 0), key=images_of)


def newest(folder: Path) -> Path | None:
    """The one with the most images seen that was not cut short; what is in it is not looked at."""
    return next((path for path in reversed(in_order(folder)) if not damage(path, content=False)), None)


def rank_file(rank: int, num_ranks: int) -> str:
    """Name of a rank's file in a checkpoint that all ranks write."""
    return f"rank{rank:05}-of-{num_ranks:05}.pt"


def files_of(checkpoint: Path) -> list[Path]:
    """Itself, or the files of all ranks."""
    return sorted(checkpoint.glob("rank*.pt")) if checkpoint.is_dir() else [checkpoint]


def content_digest(checkpoint: Path) -> str:
    """Hex sha256 of all that its files hold."""
    content = hashlib.sha256()
    for file in files_of(checkpoint):
        content.update(file.read_bytes())
    return content.hexdigest()


def damage(checkpoint: Path, content: bool = True) -> str | None:
    """What is wrong with a checkpoint or the model of an export, None if every byte is as it was written.

    About half a second a GiB on a core, and once a process: a file that has not changed since is not read again.
    content: false for whether all of it is there, which takes no time.
    """
    if not checkpoint.is_dir():
        return _unchanged(checkpoint, content)
    files = files_of(checkpoint)
    counted = re.fullmatch(r"rank\d+-of-(\d+)\.pt", files[0].name) if files else None
    parts = [rank_file(rank, int(counted[1])) for rank in range(int(counted[1]))] if counted else []
    if not parts or [file.name for file in files] != parts:
        return f"has {len(files)} of {len(parts) or 'its'} parts"
    return next((f"{file.name} {wrong}" for file in files if (wrong := _unchanged(file, content))), None)


def _unchanged(file: Path, content: bool) -> str | None:
    """`damage` of one file, from memory where it is as it was."""
    try:
        status = file.stat()
        beside = [file.with_name(SETTINGS)] if file.name in MODELS else []
        if not all(stat.S_ISREG(each.stat().st_mode) for each in (file, *beside)):
            return "is no regular file"
        key: tuple[Any, ...] = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        if file.name in MODELS:
            key += (file, file.with_name(SETTINGS).stat().st_mtime_ns)
        elif not content:
            return _wrong_archive(file, content=False)
        if key not in _known:
            _known[key] = _wrong_model(file) if file.name in MODELS else _wrong_archive(file)
        return _known[key]
    except OSError as error:
        if isinstance(error, FileNotFoundError) and file.exists():
            return f"has no {SETTINGS} beside it"
        return f"cannot be read ({error.strerror})"


def _wrong_archive(file: Path, content: bool = True) -> str | None:
    """torch writes a zip with a CRC-32 of each record; what was cut short has no table of contents at its end."""
    try:
        with zipfile.ZipFile(file) as archive:
            records = [record for record in archive.infolist() if record.file_size]
    except (zipfile.BadZipFile, ValueError, NotImplementedError, UnicodeDecodeError, struct.error, EOFError):
        return "is cut short, or no checkpoint"
    if not any(record.filename.endswith("/data.pkl") for record in records):
        return "is no checkpoint"
    if not content:
        return None
    progress = Progress(f"checking {file.name}:", "MiB", os.path.getsize(file) // _MIB)
    with open(file, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        done = 0
        with memoryview(mapped) as view, ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
            whole = threads.map(lambda record: _is_whole(view, record), records)
            for record, is_whole in zip(records, whole, strict=True):
                if not is_whole:
                    return f"is damaged: {record.filename.partition('/')[2]} is not what was written"
                done += record.file_size
                progress(done // _MIB)
    return None


def _is_whole(view: memoryview, record: zipfile.ZipInfo) -> bool:
    header = view[record.header_offset : record.header_offset + _LOCAL_HEADER]
    if len(header) < _LOCAL_HEADER or record.compress_type != zipfile.ZIP_STORED:
        return False
    start = record.header_offset + _LOCAL_HEADER + sum(struct.unpack("<HH", header[26:]))
    return zlib.crc32(view[start : start + record.file_size]) == record.CRC


def _wrong_model(file: Path) -> str | None:
    """Of an export: by the checksum in config.json, which those of before have not."""
    try:
        wanted = json.loads(file.with_name(SETTINGS).read_text(encoding="utf-8")).get("sha256", {}).get(file.name)
    except (ValueError, AttributeError):
        return f"has a damaged {SETTINGS} beside it"
    if wanted is None:
        return None
    return None if sha256(file) == wanted else f"is not what was exported: its checksum is not that in {SETTINGS}"
