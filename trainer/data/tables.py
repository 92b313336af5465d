"""Tables of captions beside pictures: JSON lines, CSV, JSON as COCO and others write it, parquet."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from typing import Any

from trainer.data.files import MAX_TEXT, POINTER, is_pointer
from trainer.errors import UserError

EXAMPLE = '{"file_name": "a.jpg", "text": "a caption"}'
SUFFIXES = (".jsonl", ".csv", ".json", ".parquet")
MAX_JSON = 2**31  # bytes; COCO's captions of 118,000 pictures are 92 MB
Rows = Iterator[tuple[str, dict[str, Any]]]


def rows(file: str) -> Rows:
    """("file, line n", row) of each line that is not blank. UserError that names file and line of what is wrong."""
    if not file.lower().endswith(SUFFIXES):
        raise UserError(f"{file}: expected a table of captions, one of {' '.join(SUFFIXES)}")
    return {"jsonl": _jsonl, "csv": _csv, "json": _json, "parquet": _parquet}[file.lower().rpartition(".")[2]](file)


def _jsonl(file: str) -> Rows:
    for number, line in enumerate(lines(file), 1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            problem = f"broken JSON ({error.msg}, column {error.colno})"
            raise UserError(f"{where}: {problem}; expected one object a line, {EXAMPLE}") from error
        if not isinstance(row, dict):
            raise UserError(f"{where}: {line.strip():.40} is no object; expected {EXAMPLE}")
        yield where, row


def _csv(file: str) -> Rows:
    csv.field_size_limit(MAX_TEXT)
    header = next(lines(file), "")
    delimiter = max(",;\t", key=lambda each: (header.count(each), each == ","))  # Excel's is ; where , is decimal
    table = csv.DictReader(lines(file), delimiter=delimiter, strict=True)
    try:
        for row in table:
            where = f"{file}, line {table.line_num}"
            if None in row:
                kind = {",": "commas", ";": "semicolons", "\t": "tabs"}[delimiter]
                raise UserError(f"{where}: more values than columns; put captions with {kind} in double quotes")
            yield where, row
    except csv.Error as error:
        where = f"{file}, line {table.reader.line_num}"
        raise UserError(f"{where}: broken CSV ({error}); put captions in double quotes") from error


def _json(file: str) -> Rows:
    """COCO's {"images": [...], "annotations": [...]}, a list of rows, or {file name: caption or row}."""
    if os.path.getsize(file) > MAX_JSON:
        raise UserError(f"{file}: {os.path.getsize(file):,} bytes; more than {MAX_JSON:,} are better a metadata.jsonl")
    try:
        with open(file, encoding="utf-8-sig") as content:
            table = json.load(content)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        with open(file, "rb") as head:
            problem = POINTER if is_pointer(head.read(64)) else f"broken JSON ({error})"
        raise UserError(f"{file}: {problem}") from error
    if isinstance(table, dict) and {"images", "annotations"} <= table.keys():
        yield from _coco(table, file)
        return
    if isinstance(table, dict):
        named = ((name, row if isinstance(row, dict) else {"text": row}) for name, row in table.items())
        table = [{"file_name": name, **row} for name, row in named]
    for number, row in enumerate(table if isinstance(table, list) else [table], 1):
        if not isinstance(row, dict):
            raise UserError(f"{file}, entry {number}: {row!r:.40} is no object; expected {EXAMPLE}")
        yield f"{file}, entry {number}", row


def _coco(table: dict[str, Any], file: str) -> Rows:
    """A row an image, in the order of the images, with all its captions."""
    captions: dict[Any, list[Any]] = {}
    try:
        for annotation in table["annotations"]:
            if "caption" in annotation:
                captions.setdefault(annotation["image_id"], []).append(annotation["caption"])
        images = [(image["id"], image["file_name"]) for image in table["images"]]
    except (KeyError, TypeError) as error:
        expected = '{"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}'
        raise UserError(f"{file}: {error} is not as COCO has it; expected {expected}") from error
    if table["annotations"] and not captions:
        raise UserError(f"{file}: annotations without a caption; give COCO's captions_*.json")
    for number, name in images:
        yield f"{file}, image {number}", {"file_name": name, "text": captions.get(number)}


def _parquet(file: str) -> Rows:
    from trainer.data.parquet import opened

    with opened(file) as table:
        number = 0
        for batch in table.iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield f"{file}, row {number}", row


def lines(file: str) -> Iterator[str]:
    """Lines as files have them; str.splitlines would also cut captions at U+2028 and its like."""
    try:
        with open(file, encoding="utf-8-sig") as content:
            while line := content.readline(MAX_TEXT):
                if is_pointer(line):
                    raise UserError(f"{file}: {POINTER}")
                if len(line) == MAX_TEXT:
                    raise UserError(f"{file}: a line of more than {MAX_TEXT:,} letters; expected one a picture")
                yield line
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 text; save it as UTF-8") from error
