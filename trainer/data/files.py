"""What sources of files share: finding them, opening a picture, checking a caption."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from trainer.data.source import Item, digest
from trainer.errors import UserError
from trainer.progress import Progress, say

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")  # whatever a name says: EPS would start Ghostscript
MAX_PIXELS = 2**26  # of a picture as it is decoded: 200 MB; a JPEG is by then reduced towards the resolution
MAX_BYTES = 2**28  # of a picture in a tar or table
MAX_TEXT = 2**24  # bytes of the captions of one picture


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
    found = Path(path).expanduser()
    if not found.exists():
        raise UserError(f"data.source.path={path}: no such file or folder; give the path of your data")
    return found.resolve()


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


def find_shards(root: Path, *suffixes: str) -> dict[str, tuple[int, int]]:
    """`find_files`, those with a suffix where root is a folder. Raises UserError where there is none."""
    files = find_files(root)
    kept = files if root.is_file() else {file: files[file] for file in with_suffix(files, *suffixes)}
    if not kept:
        raise UserError(f"data.source.path={root}: no {suffixes[0]} file in this folder; give one that has some")
    return kept


def with_suffix(files: Iterable[str], *suffixes: str) -> list[str]:
    return [file for file in files if file.lower().endswith(suffixes)]


def stamp(files: dict[str, tuple[int, int]], *more: object) -> str:
    """Changes when a file comes, goes, moves or is written."""
    return digest(*more, *files.items())


def open_image(file: Any, resolution: int) -> Image.Image:
    """The picture in a path or binary file; a JPEG reduced towards the resolution, which halves the decoding.

    OSError if it is none of FORMATS or no regular file; DecompressionBombError for more pixels than MAX_PIXELS.
    """
    if isinstance(file, str | os.PathLike) and not os.path.isfile(file):
        raise OSError(f"{file} is no regular file")
    image = Image.open(file, formats=FORMATS)
    image.draft("RGB", (2 * resolution, 2 * resolution))
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width} x {image.height} pixels"
        raise Image.DecompressionBombError(f"{size}, more than the {MAX_PIXELS:,} that are decoded: make it smaller")
    return image


def caption_list(text: object, where: str) -> tuple[str, ...]:
    """One caption or a list of them, checked. Raises UserError that begins with `where`."""
    if text is None:
        raise UserError(f"{where}: image without a caption; write one or remove the image")
    captions = [text] if isinstance(text, str) else text
    if not isinstance(captions, list | tuple) or not all(isinstance(caption, str) for caption in captions):
        raise UserError(f"{where}: caption is {text!r:.60}, a {type(text).__name__}; expected text or a list of texts")
    if not captions or not all(caption.strip() for caption in captions):
        raise UserError(f"{where}: empty caption; write one or remove the image")
    return tuple(caption.strip() for caption in captions)


def concept_name(concept: object, captions: tuple[str, ...], where: str) -> str:
    """What groups images for the split: text or a whole number; the first caption where there is none."""
    if concept is None or concept == "":
        return captions[0]
    if not isinstance(concept, str | int):
        raise UserError(f"{where}: concept is {concept!r:.60}, a {type(concept).__name__}; expected text or a number")
    return str(concept)
