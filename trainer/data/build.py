"""Writing a cache: each image of a source decoded, cropped and resized once."""

from __future__ import annotations

import io
import json
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
from trainer.data.source import Item, Source, digest
from trainer.errors import UserError
from trainer.process.progress import Progress

_CHUNK = 512  # images decoded before a write, so memory stays flat for sources of any length
CORRUPT = (OSError, SyntaxError, ValueError, EOFError, StructError, Image.DecompressionBombError)
_RECORD = ("key", "captions", "concept", "attributes", "heldout")


def write_cache(source: Source, resolution: int, building: Path, name: str) -> int:
    """Decode every item of the source into the folder `building`; the number of corrupt images skipped.

    Raises UserError where an image has no caption or none can be read.
    """
    captions: dict[str, int] = {}
    caption_ids: list[int] = []
    caption_starts, concepts, individuals, heldout, num_skipped = [0], [], [], [], 0
    items = source.items()
    checksums = Checksums(3 * resolution**2)
    progress = Progress(f"caching {name}:", "images", length_hint(items, 0))
    with (
        open(building / "images.npy", "wb") as images,
        open(building / "records.jsonl", "w", encoding="utf-8") as records,
        open(building / "skipped.txt", "w", encoding="utf-8", errors="surrogateescape") as skipped,
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads,
    ):
        _header(images, 0, resolution)
        stream = iter(items)
        while chunk := list(islice(stream, _CHUNK)):
            for item, pixels in zip(chunk, threads.map(lambda item: _decode(item, resolution), chunk), strict=True):
                if isinstance(pixels, Exception):
                    num_skipped += 1
                    reason = f"{type(pixels).__name__}: {pixels}"
                    skipped.write(" ".join(item.key.splitlines()) + "\t" + " ".join(reason.splitlines()) + "\n")
                    continue
                images.write(content := pixels.tobytes())
                checksums.add(content)
                caption_ids += [captions.setdefault(caption, len(captions)) for caption in item.captions]
                caption_starts.append(len(caption_ids))
                concepts.append(_hash(item.concept))
                individuals.append(_hash(item.key if item.concept == item.captions[0] else item.concept))
                heldout.append(-1 if item.heldout is None else int(item.heldout))
                record = {field: getattr(item, field) for field in _RECORD}
                records.write(json.dumps(record, default=str) + "\n")  # ASCII: file names need not be UTF-8
            progress(len(heldout) + num_skipped)
        _header(images, len(heldout), resolution)
    if not heldout:
        why = f"none of its {num_skipped} images can be read, the last by {reason}" if num_skipped else "no image"
        raise UserError(f"{name}: {why}; check the files of data.source")
    _save(building / FILE, np.array(checksums.values, np.uint32))
    _save(building / "caption_ids.npy", np.array(caption_ids, np.int64))
    _save(building / "caption_starts.npy", np.array(caption_starts, np.int64))
    _save(building / "concepts.npy", np.array(concepts, np.int64))
    _save(building / "individuals.npy", np.array(individuals, np.int64))
    _save(building / "heldout.npy", np.array(heldout, np.int8))
    (building / "captions.json").write_text(json.dumps(list(captions)), encoding="utf-8")
    return num_skipped


def _hash(text: str) -> int:
    return int(digest(text), 16) - (1 << 63)


def _save(file: Path, array: np.ndarray) -> None:
    """np.save, but a full disk keeps its error number, which numpy loses."""
    content = io.BytesIO()
    np.save(content, array)
    file.write_bytes(content.getbuffer())


def _header(file: Any, num_images: int, resolution: int) -> None:
    """The .npy header; numpy pads it so that the first axis can grow without moving the data."""
    shape = (num_images, resolution, resolution, 3)
    file.seek(0)
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def pictures(items: Sequence[Item], resolution: int) -> np.ndarray:
    """(N, resolution, resolution, 3) uint8 of items whose pictures are whole."""
    return np.stack([np.asarray(fit(item.load(resolution), resolution)) for item in items])


def _decode(item: Item, resolution: int) -> np.ndarray | Exception:
    if not item.captions:  # an empty one is a choice of the source
        raise UserError(f"{item.key}: image without a caption; give it one or remove it")
    try:
        return np.asarray(fit(item.load(resolution), resolution))
    except UserError:
        raise
    except CORRUPT as error:
        return error


def fit(image: Image.Image, resolution: int) -> Image.Image:
    """RGB at (resolution, resolution): upright, transparency on white, centre square, area-true resize."""
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode.startswith("I"):  # 16 bits, which `convert` would cut off at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    image = image.convert("RGB")
    if image.size == (resolution, resolution):
        return image
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return image.resize((resolution, resolution), Image.Resampling.LANCZOS, box, reducing_gap=3)
