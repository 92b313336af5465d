"""Parquet files with an image and a caption column, as Hugging Face datasets store them."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from PIL import Image

from trainer.data.files import MAX_BYTES, Items, caption_list, concept_name, existing, find_shards, open_image, stamp
from trainer.data.source import Item
from trainer.distribution import install
from trainer.errors import UserError


class Parquet:
    """One parquet file, or all under a folder.

    image_column: encoded image bytes, or {"bytes", "path"} where null bytes leave a path relative to the file, inside
    the data.
    caption_column: text or a list of texts. A column `concept`, if there is one, groups images for the split.
    Raises UserError that names the file and row of whatever is wrong.
    """

    attribution = ""

    def __init__(self, path: str, image_column: str = "image", caption_column: str = "text") -> None:
        self.root, self.image_column, self.caption_column = existing(path), image_column, caption_column

    def fingerprint(self) -> str:
        return stamp(find_shards(self.root, ".parquet"), self.image_column, self.caption_column)

    def items(self) -> Items:
        files = list(find_shards(self.root, ".parquet"))
        num_rows = sum(self._num_rows(file) for file in files)
        if not num_rows:
            raise UserError(f"data.source.path={self.root}: {len(files)} parquet files without a row; expected images")
        return Items(lambda: (item for file in files for item in self._rows(file)), num_rows)

    def _num_rows(self, file: str) -> int:
        with _open(file) as table:
            present = table.schema_arrow.names
            for key, column in (("image_column", self.image_column), ("caption_column", self.caption_column)):
                if column not in present:
                    raise UserError(f"{file}: no column {column!r} among {', '.join(present)}; set data.source.{key}=")
            return table.metadata.num_rows

    def _rows(self, file: str) -> Iterator[Item]:
        with _open(file) as table:
            columns = [self.image_column, self.caption_column]
            columns += ["concept"] if "concept" in table.schema_arrow.names else []
            number = 0
            for rows in table.iter_batches(batch_size=256, columns=columns):
                for row in rows.to_pylist():
                    number += 1
                    yield self._item(row, file, f"{file}, row {number}")

    def _item(self, row: dict[str, Any], file: str, where: str) -> Item:
        captions = caption_list(row[self.caption_column], where)
        image = row[self.image_column]
        content, name = (image.get("bytes"), image.get("path")) if isinstance(image, dict) else (image, None)
        if content is None and name:
            content = self._beside(file, str(name), where)
        elif not isinstance(content, bytes):
            kind = type(content).__name__
            raise UserError(f"{where}: {self.image_column} is a {kind}; expected encoded image bytes, or their path")
        elif len(content) > MAX_BYTES:
            raise UserError(f"{where}: an image of {len(content):,} bytes, more than {MAX_BYTES:,}; make it smaller")
        concept = concept_name(row.get("concept"), captions, where)
        return Item(f"{where} ({name})" if name else where, captions, concept, partial(_load, content))

    def _beside(self, file: str, name: str, where: str) -> str:
        """The picture that a row names, relative to its file. UserError where that leads out of the data set."""
        folder = os.path.dirname(file)
        path = os.path.realpath(os.path.join(folder, name))
        if not os.path.exists(path):
            raise UserError(f"{where}: there is no file {path}; put it there or store the bytes of the image")
        roots = [os.path.realpath(folder), *([str(self.root)] if self.root.is_dir() else [])]
        is_within = any(os.path.commonpath([root, path]) == root for root in roots)
        if os.path.isabs(name) or not is_within or not os.path.isfile(path):
            raise UserError(f"{where}: {name} is no file within {roots[-1]}; store the bytes of the image instead")
        return path


@contextmanager
def _open(file: str) -> Iterator[Any]:
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise UserError(f"data=parquet needs the package pyarrow: {install('data')}") from error
    try:
        with ParquetFile(file) as table:
            yield table
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{file}: not a whole parquet file ({reason}); fetch it again or remove it") from error


def _load(content: bytes | str, resolution: int) -> Image.Image:
    return open_image(io.BytesIO(content) if isinstance(content, bytes) else content, resolution)
