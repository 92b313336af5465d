"""Parquet files with an image and a caption column, as Hugging Face datasets store them."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from io import BufferedReader
from pathlib import Path
from typing import Any

from PIL import Image

from trainer.data.captions import CAPTION_KEYS, Uncaptioned, caption_list, concept_name, key_of
from trainer.data.contents import stamp
from trainer.data.files import (
    IMAGE_SUFFIXES,
    MAX_BYTES,
    Files,
    Items,
    base_of,
    existing_all,
    find_files,
    find_shards,
    open_image,
    refuse_pointer,
    with_suffix,
)
from trainer.data.listing import Remote
from trainer.data.remote import RemoteFile, is_remote
from trainer.data.source import Item, Place
from trainer.errors import UserError
from trainer.process.distribution import install
from trainer.process.progress import Progress
from trainer.size import Resolution

IMAGE_COLUMNS = ("image", "img", "jpg", "png", "webp", "file_name", "path")


class Parquet:
    """One parquet file, a folder or a pattern of them, on a disk or in a store.

    image_column: encoded image bytes, or {"bytes", "path"} where null bytes leave a path relative to the file, inside
    the data, or such a path. caption_column: text, a class number or a list of texts; the names that datasets keeps of
    a ClassLabel are used. None takes the usual names. A column `concept`, if there is one, groups images for the split.
    uncaptioned: what is done with images without a caption, see `Uncaptioned`; they are counted before one is decoded.
    Raises UserError that names the file and row of whatever is wrong.
    """

    attribution = ""

    def __init__(
        self,
        path: str,
        image_column: str | None = None,
        caption_column: str | None = None,
        uncaptioned: str = "error",
    ) -> None:
        Uncaptioned(uncaptioned)
        self.path, self.roots, self.uncaptioned = path, existing_all(path), uncaptioned
        self.image_column, self.caption_column = image_column, caption_column

    def fingerprint(self) -> str:
        beside: Files = {}
        for folder in self._folders():  # where rows name pictures beside the file
            files = find_files(folder)
            beside |= {file: files[file] for file in with_suffix(files, *IMAGE_SUFFIXES)}
        how = (self.image_column, self.caption_column, self.uncaptioned)
        return stamp(find_shards(self.roots, ".parquet") | beside, *how)

    def items(self) -> Items:
        files = self.shards()
        base, rule, num_rows = base_of(files), Uncaptioned(self.uncaptioned), 0
        progress = Progress("reading", "captions")
        for file in files:
            for name, captions, _ in self._captions(file):
                num_rows += bool(captions or rule(name))
                progress(num_rows + rule.count)
        rule.tell("write one or remove the image")
        if not num_rows:
            raise UserError(f"data.source.path={self.path}: {len(files)} parquet files without a row; expected images")
        return Items(lambda: (item for file in files for item in self._rows(file, file[len(base) :])), num_rows)

    @cached_property
    def base(self) -> str:
        return base_of(self.shards())

    def shards(self) -> list[str]:
        return [*find_shards(self.roots, ".parquet")]

    def of(self, shard: str) -> Iterator[Item]:
        rule, base = Uncaptioned(self.uncaptioned), self.base
        for name, captions, _ in self._captions(shard):
            if not captions:
                rule(name)
        rule.tell("write one or remove the image")
        yield from self._rows(shard, shard[len(base) :])

    def _folders(self) -> list[Path]:
        return [] if isinstance(self.roots, Remote) else [root for root in self.roots if root.is_dir()]

    def _columns(self, table: Any, file: str) -> tuple[str, str]:
        found = []
        present = table.schema_arrow.names
        images, captions = (self.image_column, IMAGE_COLUMNS), (self.caption_column, CAPTION_KEYS)
        for option, (wanted, names) in {"image_column": images, "caption_column": captions}.items():
            name = key_of(present, wanted, names)
            if name is None:
                lack = f"no column {wanted or names[0]!r} among {', '.join(present)}"
                raise UserError(f"{file}: {lack}; set data.source.{option}=")
            found.append(name)
        return found[0], found[1]

    def _captions(self, file: str) -> Iterator[tuple[str, tuple[str, ...], Any]]:
        """(where, captions, concept) of each row, without reading an image."""
        with opened(file) as table:
            column = self._columns(table, file)[1]
            classes = class_names(table, column)
            columns = [column] + ["concept"] * ("concept" in table.schema_arrow.names)
            number = 0
            for batch in table.iter_batches(batch_size=4096, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    where, text = f"{file}, row {number}", row[column]
                    if classes and isinstance(text, int) and 0 <= text < len(classes):
                        text = classes[text]
                    yield where, caption_list(text, where), row.get("concept")

    def _rows(self, file: str, key: str) -> Iterator[Item]:
        rule = Uncaptioned(self.uncaptioned)
        with opened(file) as table:
            column = self._columns(table, file)[0]
            images = (row for batch in table.iter_batches(256, columns=[column]) for row in batch.to_pylist())
            described = self._captions(file)
            for number, (row, (where, captions, concept)) in enumerate(zip(images, described, strict=True), 1):
                content, name = self._content(row[column], column, file, where)
                own = f"{key}, row {number}" + f" ({name})" * bool(name)
                if not captions:
                    captions, concept = rule(os.path.join(file, name or "")), own if concept is None else concept
                if captions:
                    place = Place(content, 0, os.path.getsize(content)) if isinstance(content, str) else content or b""
                    concept = concept_name(concept, captions, where)
                    yield Item(own, captions, concept, partial(_load, content), place=place)

    def _content(self, image: Any, column: str, file: str, where: str) -> tuple[bytes | str | None, str]:
        """(bytes or path of the picture, the name that the row gives it); None where the row has no picture."""
        if isinstance(image, dict):
            content, name = image.get("bytes"), str(image.get("path") or "")
        elif isinstance(image, str):
            content, name = None, image
            if len(image) > 1024 or not os.path.splitext(image)[1]:
                is_64 = f"{where}: {column} is text, {image:.20}..., and no path; if it is base64, store the bytes"
                raise UserError(is_64)
        else:
            content, name = image, ""
        if content is None:
            return (self._beside(file, name, where) if name else None), name
        if not isinstance(content, bytes):
            kind = type(content).__name__
            raise UserError(f"{where}: {column} is a {kind}; expected encoded image bytes, or their path")
        if len(content) > MAX_BYTES:
            raise UserError(f"{where}: an image of {len(content):,} bytes, more than {MAX_BYTES:,}; make it smaller")
        return content, name

    def _beside(self, file: str, name: str, where: str) -> str:
        """The picture that a row names, relative to its file. UserError where that leads out of the data set."""
        if is_remote(file):
            raise UserError(f"{where}: {name} lies beside a table in a store; put the image's bytes into it")
        folder = os.path.dirname(file)
        path = os.path.realpath(os.path.join(folder, name))
        if not os.path.exists(path):
            raise UserError(f"{where}: there is no file {path}; put it there or store the bytes of the image")
        roots = [os.path.realpath(folder), *map(str, self._folders())]
        is_within = any(os.path.commonpath([root, path]) == root for root in roots)
        if os.path.isabs(name) or not is_within or not os.path.isfile(path):
            raise UserError(f"{where}: {name} is no file within {roots[-1]}; store the bytes of the image instead")
        return path


@contextmanager
def opened(file: str) -> Iterator[Any]:
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise UserError(f"data=parquet needs the package pyarrow: {install('data')}") from error
    try:
        with ParquetFile(BufferedReader(RemoteFile(file)) if is_remote(file) else file) as table:
            yield table
    except (pyarrow.ArrowException, OSError) as error:
        refuse_pointer(file)
        reason = str(error).splitlines()[0]
        raise UserError(f"{file}: not a whole parquet file ({reason}); fetch it again or remove it") from error


def class_names(table: Any, column: str) -> list[str]:
    """What the numbers in a column stand for, as Hugging Face datasets notes it; [] where it does not."""
    try:
        features = json.loads(table.schema_arrow.metadata[b"huggingface"])["info"]["features"]
        names = features[column]["names"]
    except (KeyError, TypeError, ValueError):
        return []
    return [str(name) for name in names] if isinstance(names, list) else []


def _load(content: bytes | str | None, resolution: Resolution) -> Image.Image:
    if not content:
        raise OSError("the row has no image")
    return open_image(io.BytesIO(content) if isinstance(content, bytes) else content, resolution)
