"""What sources of files share: finding them, telling whether they changed, opening a picture."""

from __future__ import annotations

import glob
import math
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from PIL import Image

from trainer.data.jpeg import START, decoded, sides
from trainer.data.listing import Remote
from trainer.data.remote import RemoteFile, is_remote
from trainer.data.source import Item
from trainer.errors import UserError
from trainer.process.progress import Progress, say
from trainer.size import Resolution, Size

IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".avif", ".ppm", ".pgm", ".tga", ".jp2"),
)
OTHER_SUFFIXES = (".heic", ".heif", ".jxl", ".svg", ".psd", ".eps", ".ico", ".dng", ".cr2", ".nef", ".arw", ".exr")
# whatever a name says: EPS would start Ghostscript
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "PPM", "TGA", "JPEG2000")
MAX_PIXELS = 2**26  # of a picture as it is decoded: 200 MB; a JPEG is by then reduced towards the resolution
MAX_BYTES = 2**28  # of a picture in a tar or table
POINTER = "a Git LFS pointer in place of the file; run git lfs pull where it was cloned"
WHOLE = "whole size"  # of `Image.info`: width and height before a picture was reduced
MAX_TEXT = 2**24  # bytes of the captions of one picture
Files = dict[str, tuple[int, int | str]]  # bytes, and modification time in ns; in a store, what changes with a file


class Items:
    """Items made while they are read, their number known beforehand, so that millions of them take no memory."""

    def __init__(self, read: Callable[[], Iterator[Item]], count: int) -> None:
        self.read, self.count = read, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Item]:
        return self.read()


def existing(path: str) -> Path:
    """The file or folder, absolute and without links. Raises UserError where there is none."""
    found = Path(os.path.expanduser(path))
    if not found.exists():
        raise UserError(f"data.source.path={path}: no such file or folder; give the path of your data")
    return found.resolve()


def existing_all(path: str) -> list[Path] | Remote:
    """As `existing`, of a pattern too: *.tar, {00000..00003}.tar, {train,more}/*.tar. Each must stand for something."""
    if is_remote(path):
        return Remote(path, braces(path))
    if os.path.exists(os.path.expanduser(path)):
        return [existing(path)]
    found = []
    for each in braces(os.path.expanduser(path)):
        if not glob.has_magic(each):
            found.append(existing(each))
        elif not (matching := sorted(glob.glob(each, recursive=True))):
            raise UserError(f"data.source.path={path}: nothing is called {each}; give the path of your data")
        else:
            found += map(existing, matching)
    return found


def braces(pattern: str) -> list[str]:
    """What a shell makes of {00000..00003} and {a,b}."""
    match = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if not match:
        return [pattern]
    first, last, listed = match.groups()
    if first is None:
        middle = listed.split(",")
    else:
        middle = [str(number).zfill(len(first)) for number in range(int(first), min(int(last), int(first) + 10**6) + 1)]
    return [each for part in middle for each in braces(pattern[: match.start()] + part + pattern[match.end() :])]


def find_files(root: Path) -> dict[str, tuple[int, int]]:
    """{file: (bytes, modification time in ns)} of a file, or of all files below a folder, in order of their names.

    Links are followed, names that begin with a dot left out. A dangling link counts as a file of -1 bytes. What is no
    regular file, as a pipe or a device, is left out with a line that says so: reading it might never end.
    """
    progress = Progress(f"looking through {root}:", "files")
    found: dict[str, tuple[int, int]] = {}
    if root.is_file():
        found[str(root)] = (root.stat().st_size, root.stat().st_mtime_ns)
    folders, seen = [str(root)] if root.is_dir() else [], set()
    while folders:
        folder = folders.pop()
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:  # links can make a circle
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    folders.append(entry.path)
                    continue
                try:
                    status = entry.stat()
                except FileNotFoundError:
                    found[entry.path] = (-1, 0)
                else:
                    if not stat.S_ISREG(status.st_mode):
                        say(f"{entry.path} is no regular file: left out")
                        continue
                    found[entry.path] = (status.st_size, status.st_mtime_ns)
                progress(len(found))
    return dict(sorted(found.items()))


def find_shards(roots: Sequence[Path] | Remote, *suffixes: str) -> Files:
    """`find_files`, those with a suffix where a root is a folder. Raises UserError where there is none."""
    if isinstance(roots, Remote):
        return roots.files(*suffixes)
    found: Files = {}
    for root in roots:
        files = find_files(root)
        kept = files if root.is_file() else {file: files[file] for file in with_suffix(files, *suffixes)}
        if not kept:
            raise UserError(f"data.source.path={root}: no {suffixes[0]} file in this folder; give one that has some")
        found.update(kept)
    return found


def with_suffix(files: Iterable[str], *suffixes: str) -> list[str]:
    return [file for file in files if file.lower().endswith(suffixes)]


def base_of(files: Iterable[str]) -> str:
    """The folder that all lie in, with a slash behind it."""
    names = list(files)
    if any(map(is_remote, names)):
        return os.path.commonprefix([name[: name.rindex("/") + 1] for name in names]).rpartition("/")[0] + "/"  # noqa: RUF071
    folders = {os.path.dirname(name) for name in names}
    return os.path.join(os.path.commonpath(folders), "") if folders else ""


def opened(file: str) -> Any:
    """A file as a binary one that is read from its beginning to its end."""
    return RemoteFile(file, ahead=True) if is_remote(file) else open(file, "rb")


def relative(file: str, base: str) -> str:
    """The name of a file from this folder."""
    return file[len(base) :] if is_remote(base) else os.path.relpath(file, base)


def is_pointer(head: bytes | str) -> bool:
    """Whether a file that begins so stands for one that Git LFS has not fetched."""
    start = "version https://git-lfs.github.com/spec/"
    return head[: len(start)] in (start, start.encode())


def refuse_pointer(file: str) -> None:
    if is_remote(file):
        return
    with open(file, "rb") as content:
        if is_pointer(content.read(64)):
            raise UserError(f"{file}: {POINTER}")


def _jpeg(file: Any) -> bytes:
    """What is in a path or binary file if it begins as a JPEG does; then a file is where it was."""
    with open(file, "rb") if isinstance(file, str | os.PathLike) else nullcontext(file) as content:
        begin = content.tell()
        start: bytes = content.read(len(START))
        whole = start + content.read() if start == START else b""
        content.seek(begin)
    return whole


def open_image(file: Any, resolution: Resolution) -> Image.Image:
    """The picture in a path or binary file; a JPEG reduced to no less than twice the resolution, which saves decoding.

    `info[WHOLE]` is its own width and height. OSError if it is none of FORMATS or no regular file;
    DecompressionBombError for more pixels than MAX_PIXELS.
    """
    if isinstance(file, str | os.PathLike) and not os.path.isfile(file):
        raise OSError(f"{file} is no regular file")
    jpeg = _jpeg(file)
    if (pixels := decoded(jpeg, resolution, MAX_PIXELS)) is not None:
        image = Image.fromarray(pixels)
        image.info[WHOLE] = sides(jpeg)
        return image
    try:
        image = Image.open(file, formats=FORMATS)
    except Image.UnidentifiedImageError as error:
        with open(file, "rb") if isinstance(file, str | os.PathLike) else nullcontext(file) as content:
            content.seek(0)
            if is_pointer(content.read(64)):
                raise OSError(POINTER) from error
        raise
    least = 1 << max(0, math.ceil(math.log2(image.width * image.height / MAX_PIXELS) / 2))  # reduction that fits
    wanted, image.info[WHOLE] = Size.of(resolution), image.size
    pairs = zip((wanted.width, wanted.height), image.size, strict=True)
    image.draft("RGB", tuple(max(1, min(2 * side, own // least)) for side, own in pairs))  # type: ignore[arg-type]
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width} x {image.height} pixels"
        raise Image.DecompressionBombError(f"{size}, more than the {MAX_PIXELS:,} that are decoded: make it smaller")
    return image
