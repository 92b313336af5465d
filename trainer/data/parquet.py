"""Parquet files with an image and a caption column, as Hugging Face datasets store them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from trainer.data.files import caption_list, files_with_suffix, open_image, stamp
from trainer.data.source import Item, digest
from trainer.errors import UserError


class Parquet:
    """One parquet file, or all under a folder.

    image_column: encoded image bytes, or {"bytes", "path"} where a null bytes leaves a path relative to the file.
    caption_column: text or a list of texts. A column `concept`, if there is one, groups images for the split.
    Raises UserError that names the file and row of whatever is wrong.
    """

    attribution = ""

    def __init__(self, path: str, image_column: str = "image", caption_column: str = "text") -> None:
        self.image_column, self.caption_column = image_column, caption_column
        self.files = files_with_suffix(path, ".parquet")

    def fingerprint(self) -> str:
        return digest(stamp(self.files), self.image_column, self.caption_column)

    def items(self) -> Iterator[Item]:
        for file in self.files:
            yield from self._of_file(file)

    def _of_file(self, file: Path) -> Iterator[Item]:
        parquet = _pyarrow_parquet()
        try:
            table = parquet.ParquetFile(file)
        except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
            raise UserError(f"{file}: not a parquet file ({error}); check data.source.path=") from error
        present = table.schema_arrow.names
        for key, column in (("image_column", self.image_column), ("caption_column", self.caption_column)):
            if column not in present:
                raise UserError(f"{file}: no column {column!r} among {', '.join(present)}; set data.source.{key}=")
        columns = [self.image_column, self.caption_column, *(["concept"] if "concept" in present else [])]
        number = 0
        for rows in table.iter_batches(batch_size=256, columns=columns):
            for row in rows.to_pylist():
                number += 1
                yield self._item(row, file, f"{file}, row {number}")

    def _item(self, row: dict[str, Any], file: Path, where: str) -> Item:
        captions = caption_list(row[self.caption_column], where)
        image = row[self.image_column]
        content, name = (image.get("bytes"), image.get("path")) if isinstance(image, dict) else (image, None)
        if not isinstance(content, bytes) and not (content is None and name):
            raise UserError(f"{where}: {self.image_column} is a {type(content).__name__}; expected encoded image bytes")
        opened = partial(_open, content, file.parent / (name or ""))
        return Item(name or where, captions, str(row.get("concept") or captions[0]), opened)


def _pyarrow_parquet() -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise UserError("data=parquet needs the package pyarrow: pip install pyarrow") from error
    return parquet


def _open(content: bytes | None, file: Path, resolution: int) -> Any:
    return open_image(file if content is None else io.BytesIO(content), resolution)
