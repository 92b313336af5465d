"""Pictures in a folder: the imagefolder convention of Hugging Face datasets, or a text file beside each picture."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterator
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from trainer.data.files import (
    IMAGE_SUFFIXES,
    MAX_TEXT,
    Items,
    caption_list,
    concept_name,
    existing,
    find_files,
    open_image,
    stamp,
    with_suffix,
)
from trainer.data.source import Item
from trainer.errors import UserError
from trainer.progress import Progress

_EXAMPLE = '{"file_name": "a.jpg", "text": "a caption"}'
_METADATA = ("metadata.jsonl", "metadata.csv")


class Folder:
    """Images under `path`, at any depth, captioned in one of two ways.

    metadata.jsonl or metadata.csv, in any folder: file_name (relative to it), text (one caption, or in jsonl a list of
    captions), optionally concept; all else becomes attributes. Or a.txt beside a.jpg, one caption a line.
    The concept defaults to the first caption. Raises UserError that names the file and line of whatever is wrong.
    """

    attribution = ""

    def __init__(self, path: str) -> None:
        self.root = existing(path)
        if not self.root.is_dir():
            raise UserError(f"data.source.path={path}: a file; expected a folder of images")

    def fingerprint(self) -> str:
        files = find_files(self.root)
        metadata = _metadata(files)
        kept = [*with_suffix(files, *IMAGE_SUFFIXES), *(metadata or with_suffix(files, ".txt"))]
        contents = (hashlib.blake2b(Path(file).read_bytes()).hexdigest() for file in metadata)
        return stamp({file: files[file] for file in kept}, *contents)

    def items(self) -> Items:
        files = find_files(self.root)
        images = with_suffix(files, *IMAGE_SUFFIXES)
        if not images:
            raise UserError(f"data.source.path={self.root}: no image in it; expected {' '.join(IMAGE_SUFFIXES)}")
        metadata = _metadata(files)
        if not metadata:
            for image in images:
                if (text := _text_of(image)) not in files:
                    raise UserError(f"{image}: image without a caption; write {text} or a metadata.jsonl")
            return Items(partial(_from_texts, images), len(images))
        read = partial(_from_metadata, metadata, files, images)
        progress, count = Progress("reading", "lines of metadata"), 0
        for count, _ in enumerate(read(), 1):  # every line is checked before the first image is decoded
            progress(count)
        return Items(read, count)


def _metadata(files: dict[str, Any]) -> list[str]:
    return [file for file in files if os.path.basename(file) in _METADATA]


def _text_of(image: str) -> str:
    return os.path.splitext(image)[0] + ".txt"


def _from_texts(images: list[str]) -> Iterator[Item]:
    for image in images:
        text = _text_of(image)
        if os.path.getsize(text) > MAX_TEXT:
            raise UserError(f"{text}: {os.path.getsize(text):,} bytes; expected captions, at most {MAX_TEXT:,}")
        captions = caption_list([line for line in _lines(text) if line.strip()], text)
        yield Item(image, captions, captions[0], partial(open_image, image))


def _from_metadata(metadata: list[str], files: dict[str, Any], images: list[str]) -> Iterator[Item]:
    captioned: dict[str, str] = {}
    for file in metadata:
        for where, row in _jsonl(file) if file.endswith(".jsonl") else _csv(file):
            for key in ("file_name", "text"):
                if key not in row:
                    near = get_close_matches(key, map(str, row), 1)
                    remedy = f"rename {near[0]!r}" if near else f"expected {_EXAMPLE}"
                    raise UserError(f"{where}: no {key!r} among {', '.join(map(str, row)) or 'no keys'}; {remedy}")
            name = row["file_name"]
            if not isinstance(name, str) or not name:
                raise UserError(f"{where}: file_name is {name!r:.60}; expected an image, relative to {file}")
            image = os.path.normpath(os.path.join(os.path.dirname(file), name))
            if image not in files:
                raise UserError(f"{where}: there is no file {image}; correct file_name or remove the line")
            if image in captioned:
                remedy = 'write all captions of an image into one line, "text": ["one", "two"]'
                raise UserError(f"{where}: {name} has its captions in {captioned[image]}; {remedy}")
            captioned[image] = where
            captions = caption_list(row["text"], where)
            concept = concept_name(row.get("concept"), captions, where)
            attributes = {key: row[key] for key in row if key not in ("file_name", "text", "concept")}
            yield Item(image, captions, concept, partial(open_image, image), attributes)
    for image in images:
        if image not in captioned:
            raise UserError(f"{image}: image without a caption; add it to {metadata[0]} or remove it")


def _jsonl(file: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """("file, line n", row) of each line that is not blank."""
    for number, line in enumerate(_lines(file), 1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            problem = f"broken JSON ({error.msg}, column {error.colno})"
            raise UserError(f"{where}: {problem}; expected one object a line, {_EXAMPLE}") from error
        if not isinstance(row, dict):
            raise UserError(f"{where}: {line.strip():.40} is no object; expected {_EXAMPLE}")
        yield where, row


def _csv(file: str) -> Iterator[tuple[str, dict[str, Any]]]:
    rows = csv.DictReader(_lines(file), strict=True)
    try:
        for row in rows:
            where = f"{file}, line {rows.line_num}"
            if None in row:
                raise UserError(f"{where}: more values than columns; put captions with commas in double quotes")
            yield where, row
    except csv.Error as error:
        where = f"{file}, line {rows.reader.line_num}"
        raise UserError(f"{where}: broken CSV ({error}); put captions in double quotes") from error


def _lines(file: str) -> Iterator[str]:
    """Lines as files have them; str.splitlines would also cut captions at U+2028 and its like."""
    try:
        with open(file, encoding="utf-8-sig") as lines:
            while line := lines.readline(MAX_TEXT):
                if len(line) == MAX_TEXT:
                    raise UserError(f"{file}: a line of more than {MAX_TEXT:,} letters; expected one a picture")
                yield line
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 text; save it as UTF-8") from error
