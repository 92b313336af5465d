"""What sources of files share: finding them, opening a picture, checking a caption."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from trainer.data.source import digest
from trainer.errors import UserError


def open_image(file: Any, resolution: int) -> Image.Image:
    """The picture in a path or binary file; a JPEG reduced towards the resolution, which halves the decoding."""
    image = Image.open(file)
    image.draft("RGB", (2 * resolution, 2 * resolution))
    return image


def caption_list(text: object, where: str) -> tuple[str, ...]:
    """One caption or a list of them, checked. Raises UserError that begins with `where`."""
    captions = [text] if isinstance(text, str) else text
    if not isinstance(captions, list | tuple) or not all(isinstance(caption, str) for caption in captions):
        raise UserError(f"{where}: caption is {text!r:.60}, a {type(text).__name__}; expected text or a list of texts")
    if not captions or not all(caption.strip() for caption in captions):
        raise UserError(f"{where}: empty caption; write one or remove the image")
    return tuple(caption.strip() for caption in captions)


def existing(path: str) -> Path:
    """The path, which must be there."""
    found = Path(path).expanduser()
    if not found.exists():
        raise UserError(f"data.source.path={path}: no such file or folder; give the path of your data")
    return found


def files_with_suffix(path: str, suffix: str) -> list[Path]:
    """A file, or all files with this suffix under a folder; at least one."""
    found = existing(path)
    files = [found] if found.is_file() else sorted(found.rglob(f"*{suffix}"))
    if not files:
        raise UserError(f"data.source.path={path}: no {suffix} file in this folder")
    return files


def stamp(files: Iterable[Path]) -> str:
    """Changes when one of the files does."""
    return digest(*((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files))
