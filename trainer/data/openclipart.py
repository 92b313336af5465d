"""Clip art of openclipart.org, public domain, with its titles: Debian's `openclipart-png` and `openclipart-svg`."""

from __future__ import annotations

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from xml.parsers import expat

from PIL import Image, ImageChops, ImageOps

from trainer.data.contents import stamp
from trainer.data.files import MAX_TEXT, existing, open_image
from trainer.data.openclipart_names import VERSION, clip_art_names, concept_of
from trainer.data.source import Item
from trainer.errors import UserError
from trainer.process.progress import Progress
from trainer.size import Resolution, Size

_INSTALLED = "/usr/share/openclipart"
_LEFT_OUT = ("shapes/stars", "special/patterns")  # 1,378 generated stars, 96 tiles of one line each
_LINKED = re.compile(rb'<image\b[^>]{0,4096}?href="(?!data:)')  # to a file that is not there: drawn as an error
_FAINT = 8  # of 255: shadows this far from white are no part of what is drawn
_WORK = "metadata/rdf:RDF/cc:Work/"


@dataclass(frozen=True)
class Described:
    """What an SVG says of itself. licence: the last part of its address, in lower case. drawing: digest of all else."""

    title: str
    keywords: tuple[str, ...]
    creator: str
    licence: str
    drawing: bytes


class OpenClipart:
    """Clip art on white, made square, captioned by its title, then by title and keywords.

    path: a folder that holds png/ and svg/ with the same names; None is where Debian's packages put them. Left out are
    links and copies, themes of icons, generated stars and patterns, what is not in the public domain, and pictures
    whose titles say nothing of them (see `clip_art_names`). Variants of colour and number share a concept.
    UserError where there is no such folder.
    """

    attribution = ""

    def __init__(self, path: str | None = None) -> None:
        self.root = existing(path) if path else Path(_INSTALLED)
        if not (self.root / "png").is_dir() or not (self.root / "svg").is_dir():
            where = f"data.source.path={path}" if path else _INSTALLED
            remedy = "apt-get install openclipart-png openclipart-svg, or give the folder with data.source.path="
            raise UserError(f"data=openclipart needs png/ and svg/ in {where}: {remedy}")

    def fingerprint(self) -> str:
        files = (file for pair in self._pairs() for file in pair)
        return stamp({file: ((status := os.stat(file)).st_size, status.st_mtime_ns) for file in files}, VERSION)

    def items(self) -> list[Item]:
        progress, items = Progress("reading", "titles"), list[Item]()
        seen: set[bytes] = set()
        for count, (png, svg) in enumerate(self._pairs(), 1):
            progress(count)
            described = describe(svg)
            if described is None or described.licence != "publicdomain":
                continue
            key = os.path.relpath(png, self.root / "png")
            captions = clip_art_names(key, described.title, described.keywords, described.creator)
            contents = {described.drawing, hashlib.sha256(Path(png).read_bytes()).digest()}
            if not captions or seen & contents:
                continue
            seen |= contents
            attributes = {"category": os.path.dirname(key), "creator": described.creator}
            items.append(Item(key, captions, concept_of(captions[0]), partial(_centred, png), attributes))
        return items

    def _pairs(self) -> Iterator[tuple[str, str]]:
        """PNG and SVG of each picture, in order of their names; both regular files and no links."""
        root = str(self.root / "png")
        for folder, folders, names in os.walk(root):
            folders.sort()
            place = os.path.relpath(folder, root)
            if place.startswith(_LEFT_OUT) or "-theme" in place:
                continue
            for name in sorted(names):
                png = os.path.join(folder, name)
                svg = os.path.join(self.root, "svg", place, os.path.splitext(name)[0] + ".svg")
                if name.endswith(".png") and all(map(_is_file, (png, svg))):
                    yield png, svg


def _is_file(path: str) -> bool:
    return os.path.isfile(path) and not os.path.islink(path)


def describe(svg: str) -> Described | None:
    """What the RDF in an SVG's <metadata> says; None where that cannot be read, or a part of the picture is lacking.

    Nothing but this element is parsed, and it has no DTD: no entity of the file's own is expanded, none is fetched.
    """
    with open(svg, "rb") as file:
        content = file.read(MAX_TEXT)
    start, end = content.find(b"<metadata"), content.find(b"</metadata>")
    if not 0 <= start < end or _LINKED.search(content):
        return None
    texts: dict[str, list[str]] = defaultdict(list)
    path: list[str] = []
    licence = ""

    def begin(name: str, attributes: dict[str, str]) -> None:
        nonlocal licence
        path.append(name)
        texts["/".join(path)].append("")
        if name == "cc:license":
            licence = attributes.get("rdf:resource", "").rstrip("/").rsplit("/", 1)[-1].lower()

    def say(text: str) -> None:
        texts["/".join(path)][-1] += text

    parser = expat.ParserCreate("utf-8")
    parser.StartElementHandler, parser.CharacterDataHandler = begin, say
    parser.EndElementHandler = lambda _: path.pop()
    parser.buffer_text = True
    try:
        parser.Parse(content[start : end + len(b"</metadata>")], True)
    except expat.ExpatError:
        return None
    title, creator = (texts[_WORK + key] for key in ("dc:title", "dc:creator/cc:Agent/dc:title"))
    keywords = tuple(texts[_WORK + "dc:subject/rdf:Bag/rdf:li"])
    drawing = hashlib.sha256(content[end:]).digest()
    return Described(title[0] if title else "", keywords, creator[0] if creator else "", licence, drawing)


def _centred(file: str, resolution: Resolution) -> Image.Image:
    """What is drawn, in the middle of a white sheet: much of it is tall or wide, or small on a large one.

    ValueError where there is nothing but white, as of white icons.
    """
    image = open_image(file, resolution).convert("RGBA")
    size = Size.of(resolution)
    image.thumbnail((4 * size.width, 4 * size.height))
    sheet = Image.new("RGBA", image.size, "white")
    sheet.alpha_composite(image)
    picture = sheet.convert("RGB")
    drawn = ImageChops.invert(picture).convert("L").point(lambda value: 255 * (value > _FAINT))
    if (box := drawn.getbbox()) is None:
        raise ValueError("nothing is drawn on it but white")
    picture = picture.crop(box)
    picture = ImageOps.expand(picture, 1 + max(picture.size) // 32, "white")
    return ImageOps.pad(picture, (size.width, size.height), Image.Resampling.LANCZOS, color="white")
