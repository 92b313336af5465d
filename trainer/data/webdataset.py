"""WebDataset: tar files in which the members a.jpg and a.txt, or a.json, make one sample."""

from __future__ import annotations

import io
import json
import tarfile
import zlib
from collections.abc import Iterator
from functools import partial
from itertools import groupby
from typing import Any

from PIL import Image

from trainer.data.files import caption_list, files_with_suffix, open_image, stamp
from trainer.data.folder import IMAGE_SUFFIXES
from trainer.data.source import Item, digest
from trainer.errors import UserError


class WebDataset:
    """One tar, or all under a folder; compressed ones too.

    A sample is a run of members with the same name up to the first dot: one image, and a caption in .txt (one caption
    a line) or in .json under `caption_key`, with an optional `concept`. Raises UserError that names tar and sample.
    """

    attribution = ""

    def __init__(self, path: str, caption_key: str = "text") -> None:
        self.caption_key = caption_key
        self.files = files_with_suffix(path, ".tar*")

    def fingerprint(self) -> str:
        return digest(stamp(self.files), self.caption_key)

    def items(self) -> Iterator[Item]:
        for file in self.files:
            try:
                with tarfile.open(file, "r|*") as tar:
                    members = ((member.name, tar.extractfile(member)) for member in tar if member.isfile())
                    for name, parts in groupby(members, lambda member: _split(member[0])[0]):
                        sample = {_split(member)[1]: content.read() for member, content in parts if content}
                        yield from self._of_sample(f"{file}, sample {name}", sample)
            except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
                raise UserError(f"{file}: not a whole tar file ({error}); fetch it again or remove it") from error

    def _of_sample(self, where: str, sample: dict[str, bytes]) -> Iterator[Item]:
        image = next((content for suffix, content in sample.items() if f".{suffix}" in IMAGE_SUFFIXES), None)
        if image is None:
            return  # other modalities, or a tar's own notes
        text, concept = self._caption(where, sample)
        captions = caption_list(text, where)
        yield Item(where, captions, str(concept or captions[0]), partial(_open, image))

    def _caption(self, where: str, sample: dict[str, bytes]) -> tuple[Any, Any]:
        try:
            if "txt" in sample:
                return [line.strip() for line in sample["txt"].decode().splitlines() if line.strip()], None
            if "json" not in sample:
                raise UserError(f"{where}: image without a caption; expected a .txt or a .json beside it")
            fields = json.loads(sample["json"])
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise UserError(f"{where}: unreadable caption ({error}); expected UTF-8 text or JSON") from error
        if not isinstance(fields, dict) or self.caption_key not in fields:
            raise UserError(f"{where}: no {self.caption_key!r} in its .json; set data.source.caption_key=")
        return fields[self.caption_key], fields.get("concept")


def _split(name: str) -> tuple[str, str]:
    """Sample name and lower-case suffix: "a/b.c.jpg" is sample "a/b" with "c.jpg", as WebDataset has it."""
    folder, _, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    return f"{folder}/{stem}" if folder else stem, suffix.lower()


def _open(content: bytes, resolution: int) -> Image.Image:
    return open_image(io.BytesIO(content), resolution)
