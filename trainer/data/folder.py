"""Pictures in a folder: the imagefolder convention of Hugging Face datasets, or a text file beside each picture."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from trainer.data.files import caption_list, existing, open_image
from trainer.data.source import Item, digest
from trainer.errors import UserError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
_KEYS = ("file_name", "text", "concept")


class Folder:
    """Images under `path`, at any depth, captioned in one of two ways.

    metadata.jsonl or metadata.csv, in any folder: file_name (relative to it), text (one caption, or in jsonl a list of
    captions), and optionally concept. Else a.txt beside a.jpg, one caption a line.
    The concept defaults to the first caption. Raises UserError that names the file and line of whatever is wrong.
    """

    attribution = ""

    def __init__(self, path: str) -> None:
        self.path = existing(path)
        if not self.path.is_dir():
            raise UserError(f"data.source.path={path}: expected a folder of images")
        files = sorted(Path(parent) / name for parent, _, names in os.walk(self.path) for name in names)
        self.images = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
        self.metadata = [file for file in files if file.name in ("metadata.jsonl", "metadata.csv")]
        self.texts = [] if self.metadata else [file for file in files if file.suffix == ".txt"]
        if not self.images:
            raise UserError(f"data.source.path={path}: no image in it; expected {' '.join(sorted(IMAGE_SUFFIXES))}")

    def fingerprint(self) -> str:
        files = [*self.images, *self.metadata, *self.texts]
        stats = [(str(file.relative_to(self.path)), file.stat()) for file in files]
        return digest(*((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats))

    def items(self) -> list[Item]:
        return list(self._from_metadata() if self.metadata else self._from_texts())

    def _from_texts(self) -> Iterator[Item]:
        for image in self.images:
            text = image.with_suffix(".txt")
            if not text.is_file():
                raise UserError(f"{image}: image without a caption; write {text.name} beside it, or a metadata.jsonl")
            captions = [line for line in _read(text).splitlines() if line.strip()]
            yield self._item(image, captions, None, str(text))

    def _from_metadata(self) -> Iterator[Item]:
        images, captioned = set(self.images), set()
        for file in self.metadata:
            for where, row in _rows(file):
                for key in row:
                    if key not in _KEYS:
                        near = get_close_matches(str(key), _KEYS, 1)
                        remedy = f"did you mean {near[0]}?" if near else f"expected {', '.join(_KEYS)}"
                        raise UserError(f"{where}: unknown key {key!r}; {remedy}")
                name = row.get("file_name")
                if not isinstance(name, str) or not name:
                    raise UserError(f"{where}: file_name is {name!r}; expected an image relative to this file")
                image = Path(os.path.normpath(file.parent / name))
                if image not in images:
                    raise UserError(f"{where}: {image} is not there or not an image; correct it or remove the line")
                captioned.add(image)
                yield self._item(image, row.get("text"), row.get("concept"), where)
        for image in self.images:
            if image not in captioned:
                raise UserError(f"{image}: image without a caption; add it to {self.metadata[0]} or remove it")

    def _item(self, image: Path, text: Any, concept: Any, where: str) -> Item:
        captions = caption_list(text, where)
        if concept is not None and not isinstance(concept, str):
            raise UserError(f"{where}: concept is {concept!r}; expected text")
        key = str(image.relative_to(self.path))
        return Item(key, captions, concept or captions[0], partial(open_image, image))


def _rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """("file, line n", row) of a metadata file."""
    text = _read(file)
    if file.suffix == ".csv":
        rows = csv.DictReader(io.StringIO(text, newline=""))
        for row in rows:
            if None in row:
                raise UserError(f"{file}, line {rows.line_num}: more values than columns; quote captions with commas")
            yield f"{file}, line {rows.line_num}", row
        return
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{where}: not valid JSON ({error.msg}); expected one object a line") from error
        if not isinstance(row, dict):
            raise UserError(f"{where}: {line.strip()[:40]!r}; expected an object with file_name and text")
        yield where, row


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 text; save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; make it readable") from error
