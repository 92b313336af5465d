"""Writing a cache: each image of a source decoded, cropped and resized once."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from operator import length_hint
from pathlib import Path
from struct import error as StructError
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from trainer.data.checksums import FILE, Checksums
from trainer.data.colours import as_rgb
from trainer.data.files import WHOLE
from trainer.data.source import Item, Source, digest
from trainer.errors import UserError
from trainer.process.progress import Progress
from trainer.size import Resolution, Size

_CHUNK = 512  # images decoded before a write, so memory stays flat for sources of any length
CORRUPT = (OSError, SyntaxError, ValueError, EOFError, StructError, Image.DecompressionBombError)
_ORIENTATION = 0x0112  # of EXIF
CENTRE = (1.0, 0.5, 0.5)  # part of a picture


def write_cache(source: Source, resolution: Resolution, building: Path, name: str) -> int:
    """Decode every item of the source into the folder `building`; the number of corrupt images skipped.

    Raises UserError where an image has no caption or none can be read.
    """
    captions: dict[str, int] = {}
    told, num_skipped = Told(), 0
    items = source.items()
    progress = Progress(f"caching {name}:", "images", length_hint(items, 0))
    with (
        Plane(building, "", resolution, captions) as images,
        Plane(building, "source_", resolution, captions) as sources,
        open(building / "records.jsonl", "w", encoding="utf-8") as records,
        open(building / "skipped.txt", "w", encoding="utf-8", errors="surrogateescape") as skipped,
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads,
    ):
        stream = iter(items)
        while chunk := list(islice(stream, _CHUNK)):
            for item, pixels in zip(chunk, threads.map(lambda item: _decode(item, resolution), chunk), strict=True):
                if isinstance(pixels, Exception):
                    num_skipped += 1
                    skipped.write(line := left_out(item, pixels))
                    continue
                images.add(item, pixels[0])
                if item.source is not None:
                    sources.add(item.source, pixels[1])
                if len(sources) not in (0, len(images)):
                    raise UserError(f"{item.key}: some pictures have a source, others none; expected all or none")
                records.write(told.add(item) + "\n")
            progress(len(told) + num_skipped)
    if not len(told):
        raise nothing(name, num_skipped, line if num_skipped else "")
    images.save()
    if len(sources):
        sources.save()
    told.save(building)
    (building / "captions.json").write_text(json.dumps(list(captions)), encoding="utf-8")
    return num_skipped


class Told:
    """What a source tells of its items: concepts.npy, individuals.npy, heldout.npy, as in `trainer.data.reader`."""

    def __init__(self) -> None:
        self.concepts: list[int] = []
        self.individuals: list[int] = []
        self.heldout: list[int] = []

    def __len__(self) -> int:
        return len(self.heldout)

    def add(self, item: Item) -> str:
        """The item's record, as JSON in ASCII: file names need not be UTF-8."""
        self.concepts.append(_hash(item.concept))
        self.individuals.append(_hash(item.key if item.concept == item.captions[0] else item.concept))
        self.heldout.append(-1 if item.heldout is None else int(item.heldout))
        fields = ("key", "captions", "concept", "attributes", "heldout")
        return json.dumps({field: getattr(item, field) for field in fields}, default=str)

    def save(self, building: Path) -> None:
        save(building / "concepts.npy", np.array(self.concepts, np.int64))
        save(building / "individuals.npy", np.array(self.individuals, np.int64))
        save(building / "heldout.npy", np.array(self.heldout, np.int8))


def left_out(item: Item, problem: Exception) -> str:
    """The line of skipped.txt for an item that cannot be read."""
    reason = f"{type(problem).__name__}: {problem}"
    return " ".join(item.key.splitlines()) + "\t" + " ".join(reason.splitlines()) + "\n"


def nothing(name: str, num_skipped: int, last: str) -> UserError:
    """That no picture is left. last: line of skipped.txt."""
    reason = last.rpartition("\t")[2].strip()
    why = f"none of its {num_skipped} images can be read, the last by {reason}" if num_skipped else "no image"
    return UserError(f"{name}: {why}; check the files of data.source")


class Plane:
    """One picture of each item, and its captions, as they are written: PREFIXimages.npy, PREFIXcaption_ids.npy ...

    A context; no file is there until a picture comes. captions: text -> number, which planes share.
    """

    def __init__(self, building: Path, prefix: str, resolution: Resolution, captions: dict[str, int]):
        self.building, self.prefix, self.size, self.captions = building, prefix, Size.of(resolution), captions
        self.checksums = Checksums(3 * math.prod(self.size))
        self.caption_ids: list[int] = []
        self.caption_starts = [0]
        self.file: Any = None

    def __enter__(self) -> Plane:
        return self

    def __len__(self) -> int:
        return len(self.caption_starts) - 1

    def add(self, item: Item, pixels: np.ndarray) -> None:
        if self.file is None:
            self.file = open(self.building / f"{self.prefix}images.npy", "wb")  # noqa: SIM115
            _header(self.file, 0, self.size)
        self.file.write(content := pixels.tobytes())
        self.checksums.add(content)
        self.caption_ids += [self.captions.setdefault(caption, len(self.captions)) for caption in item.captions]
        self.caption_starts.append(len(self.caption_ids))

    def __exit__(self, *_: object) -> None:
        if self.file is not None:
            with self.file:
                _header(self.file, len(self), self.size)

    def save(self) -> None:
        save(self.building / f"{self.prefix}{FILE}", np.array(self.checksums.values, np.uint32))
        save(self.building / f"{self.prefix}caption_ids.npy", np.array(self.caption_ids, np.int64))
        save(self.building / f"{self.prefix}caption_starts.npy", np.array(self.caption_starts, np.int64))


def _hash(text: str) -> int:
    return int(digest(text), 16) - (1 << 63)


def save(file: Path, array: np.ndarray) -> None:
    """np.save, but a full disk keeps its error number, which numpy loses."""
    content = io.BytesIO()
    np.save(content, array)
    file.write_bytes(content.getbuffer())


def _header(file: Any, num_images: int, size: Size) -> None:
    """The .npy header; numpy pads it so that the first axis can grow without moving the data."""
    shape = (num_images, *size, 3)
    file.seek(0)
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def pictures(items: Sequence[Item], resolution: Resolution) -> np.ndarray:
    """(N, H, W, 3) uint8 of items whose pictures are whole."""
    return np.stack([np.asarray(fit(item.load(resolution), resolution)) for item in items])


def _decode(item: Item, resolution: Resolution) -> list[np.ndarray] | Exception:
    """Pixels of the item, and of its source if it has one."""
    try:
        found = []
        for each in (item, item.source):
            if each is not None and not each.captions:  # an empty one is a choice of the source
                raise UserError(f"{each.key}: image without a caption; give it one or remove it")
            if each is not None:
                found.append(np.asarray(fit(each.load(resolution), resolution)))
        return found
    except UserError:
        raise
    except CORRUPT as error:
        return error


def fit(image: Image.Image, resolution: Resolution, part: tuple[float, float, float] = CENTRE) -> Image.Image:
    """RGB (`as_rgb`) at this resolution: upright, a part of it in these proportions, area-true resize.

    part: its sides as a fraction of those of the largest such part of the picture, and how far it lies to the right and
    down, from 0 to 1.
    """
    height, width = Size.of(resolution)
    image.load()  # before what follows the pixels is known
    if _orientation(image) != 1:
        image = ImageOps.exif_transpose(image)  # else it would copy it
    image = as_rgb(image)
    share, right, down = part
    if image.size == (width, height) and share == 1:
        return image
    across = min(image.width, image.height * (width / height)) * share
    tall = min(image.height, image.width * (height / width)) * share
    left, top = (image.width - across) * right, (image.height - tall) * down
    box = (left, top, left + across, top + tall)
    return image.resize((width, height), Image.Resampling.LANCZOS, box, reducing_gap=3)


def sides_of(image: Image.Image) -> Size:
    """Height and width of a loaded picture as it is seen: upright, and as large as it was before it was reduced."""
    width, height = image.info.get(WHOLE, image.size)
    height, width = (min(side, 0xFFFF) for side in ((width, height) if _orientation(image) >= 5 else (height, width)))
    return Size(height, width)


def _orientation(image: Image.Image) -> int:
    """1 upright; from 5 on it lies on its side."""
    return int(image.getexif().get(_ORIENTATION, 1))
