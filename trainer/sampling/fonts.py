"""Letters of any script as pixels: Pillow's own font, and those of the machine for what it lacks."""

from __future__ import annotations

import functools
import itertools
import os
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from PIL import ImageDraw, ImageFont

from trainer.process.progress import say

SIZE = 13
_FOLDERS = {
    "linux": ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts"),
    "darwin": ("/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts"),
    "win32": (os.path.join(os.environ.get("WINDIR", "C:/Windows"), "Fonts"),),
}
# beginnings of file names, plain ones of many letters first
_PREFERRED: tuple[str, ...] = (
    "NotoSans-Regular",
    "DejaVuSans.",
    "Arial Unicode",
    "NotoSansCJK-Regular",
    "NotoSans",
    "arial",
    "PingFang",
)
_PREFERRED += ("msyh", "simsun", "malgun", "wqy-", "Droid", "seguisym", "seguiemj", "Symbola", "NotoEmoji")
_MOST = 200  # files that are looked into
_LACKING = "\U0010ffff"  # no font has it


def runs(text: str) -> Iterator[tuple[str, ImageFont.ImageFont | ImageFont.FreeTypeFont]]:
    """A text in pieces of one font each; letters that no font has are in the first, which shows a box."""
    for font, letters in itertools.groupby(_letters(text), key=lambda pair: pair[1]):
        yield "".join(letter for letter, _ in letters), font


def _letters(text: str) -> Iterator[tuple[str, ImageFont.ImageFont | ImageFont.FreeTypeFont]]:
    font = own = _own()
    for letter in text:
        if unicodedata.combining(letter) or letter == " ":  # stays with what it stands at
            yield letter, font
        elif unicodedata.category(letter) in ("Cf", "Cc") or 0xFE00 <= ord(letter) <= 0xFE0F:
            yield "", font  # joins and selects letters, and is none
        else:
            font = fitting(letter) or own
            yield letter, font


def readable(text: str) -> str:
    """The text, in which symbols that no font here has, as emoji, have become their names in brackets.

    A line tells of other letters that are shown as boxes, once.
    """
    lacking = {letter for letter in set(text) if ord(letter) > 126 and not letter.isspace() and not _is_shown(letter)}
    symbols = {letter for letter in lacking if unicodedata.category(letter) in ("So", "Sk", "Cn", "Sm", "Sc")}
    if letters := "".join(sorted(lacking - symbols)):
        _tell(unicodedata.name(letters[0], "these letters").partition(" ")[0].lower())
    return "".join(f"[{unicodedata.name(c, hex(ord(c))).lower()}]" if c in symbols else c for c in text)


def length(text: str) -> float:
    """Width in pixels."""
    return sum(font.getlength(piece) for piece, font in runs(text))


def write(draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, fill: str = "black") -> None:
    """One line, from the left of its top."""
    left, top = place
    for piece, font in runs(text):
        draw.text((left, top + SIZE), piece, fill=fill, font=font, anchor="ls")
        left += font.getlength(piece)


@functools.cache
def fitting(letter: str) -> ImageFont.ImageFont | ImageFont.FreeTypeFont | None:
    """The first font that has a letter, None if none has."""
    return next((font for font in itertools.chain([_own()], _machines()) if _has(font, letter)), None)


def _is_shown(letter: str) -> bool:
    return (
        bool(unicodedata.combining(letter))
        or unicodedata.category(letter) in ("Cf", "Cc", "Mn")
        or bool(fitting(letter))
    )


def _has(font: ImageFont.ImageFont | ImageFont.FreeTypeFont, letter: str) -> bool:
    box, missing = font.getmask(letter), font.getmask(_LACKING)
    return (box.size, bytes(box)) != (missing.size, bytes(missing)) and box.getbbox() is not None


@functools.cache
def _own() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(SIZE)


def _machines() -> Iterator[ImageFont.FreeTypeFont]:
    return filter(None, map(_open, files()))


@functools.cache
def files() -> list[Path]:
    """Fonts of this machine, those first that are best to read."""
    folders = [Path(folder).expanduser() for folder in _FOLDERS.get(sys.platform, _FOLDERS["linux"])]
    found = [file for folder in folders for file in folder.rglob("*.[to]t[fc]")]

    def rank(file: Path) -> tuple[int, str]:
        begins = [number for number, name in enumerate(_PREFERRED) if file.name.startswith(name)]
        return min(begins, default=len(_PREFERRED)), str(file)

    return sorted(found, key=rank)[:_MOST]


@functools.cache
def _open(file: Path) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(str(file), SIZE)
    except OSError:  # damaged, or of pictures of one size
        return None


@functools.cache
def _tell(script: str) -> None:
    say(f"captions in grids: no font of this machine has {script} letters; install one, as fonts-noto of Debian")
