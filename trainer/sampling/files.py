"""PNG files that say where they come from."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from trainer.errors import UserError

Origin = dict[str, str]  # PNG metadata


def make_folder(folder: Path) -> None:
    """UserError if the folder cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out={folder}: {error.strerror}; name a folder that can be made") from error


def refuse_others(files: Iterable[Path], origin: Origin) -> None:
    """UserError for a file that is there already and was not drawn so."""
    for file in files:
        if file.exists() and not is_from(file, origin):
            raise UserError(f"{file} is there already and not from {origin['checkpoint']}: choose another out=FOLDER")


def free_name(folder: Path, origin: Origin) -> Path:
    """grid.png in a folder, or with a number where that is of anything else."""
    numbered = itertools.chain(["grid.png"], (f"grid-{i}.png" for i in itertools.count(2)))
    return next(f for f in map(folder.joinpath, numbered) if not f.exists() or is_from(f, origin))


def save(image: Image.Image, file: Path, origin: Origin) -> None:
    info = PngInfo()
    for key, value in origin.items():
        info.add_text(key, value)
    image.save(file, pnginfo=info)


def is_from(file: Path, origin: Origin) -> bool:
    """Whether a PNG's metadata says all that `origin` says."""
    try:
        if not file.is_file():
            return False
        with Image.open(file, formats=["PNG"]) as image:
            return origin.items() <= image.info.items()
    except OSError:  # no image, or cut short
        return False
