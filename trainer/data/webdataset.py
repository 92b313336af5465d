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

from trainer.data.files import (
    IMAGE_SUFFIXES,
    caption_list,
    concept_name,
    existing,
    find_shards,
    open_image,
    stamp,
)
from trainer.data.source import Item
from trainer.errors import UserError

_BROKEN = (tarfile.TarError, EOFError, zlib.error)


class WebDataset:
    """One tar, or all under a folder; compressed ones too.

    A sample is a run of members with the same name up to the first dot: one image, and captions in .txt (one a line)
    or in .json under `caption_key`, with an optional `concept`; samples without an image are left out. Raises UserError
    that names the tar and the sample of whatever is wrong.
    """

    attribution = ""

    def __init__(self, path: str, caption_key: str = "text") -> None:
        self.root, self.caption_key = existing(path), caption_key

    def fingerprint(self) -> str:
        return stamp(self._files(), self.caption_key)

    def items(self) -> Iterator[Item]:
        for file in self._files():
            try:
                with tarfile.open(file, "r|*") as tar:
                    yield from self._items(tar, file)
            except _BROKEN as error:
                raise UserError(f"{file}: not a whole tar file ({error}); fetch it again or remove it") from error

    def _files(self) -> dict[str, tuple[int, int]]:
        return find_shards(self.root, ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")

    def _items(self, tar: tarfile.TarFile, file: str) -> Iterator[Item]:
        members = ((member.name, tar.extractfile(member)) for member in tar if member.isfile())
        for name, parts in groupby(members, lambda member: _split(member[0])[0]):
            sample = {_split(member)[1]: content.read() for member, content in parts if content}
            image = next((content for suffix, content in sample.items() if f".{suffix}" in IMAGE_SUFFIXES), None)
            if image is None:
                continue  # other modalities, or a tar's own notes
            where = f"{file}, sample {name}"
            text, concept = self._described(where, sample)
            captions = caption_list(text, where)
            yield Item(where, captions, concept_name(concept, captions, where), partial(_load, image))

    def _described(self, where: str, sample: dict[str, bytes]) -> tuple[Any, Any]:
        """The sample's captions and concept, as they are in the tar."""
        try:
            fields = json.loads(sample.get("json", b"{}").decode("utf-8-sig"))
            if not isinstance(fields, dict):
                raise UserError(f"{where}: .json is a {type(fields).__name__}; expected an object with the caption")
            if "txt" in sample:
                lines = sample["txt"].decode("utf-8-sig").split("\n")
                return [line for line in lines if line.strip()], fields.get("concept")
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise UserError(f"{where}: unreadable caption ({error}); expected UTF-8 text or JSON") from error
        if "json" not in sample:
            raise UserError(f"{where}: image without a caption; expected a .txt or a .json beside it")
        if self.caption_key not in fields:
            among = ", ".join(fields) or "no keys"
            raise UserError(f"{where}: no {self.caption_key!r} among {among} of .json; set data.source.caption_key=")
        return fields[self.caption_key], fields.get("concept")


def _split(name: str) -> tuple[str, str]:
    """Sample name and lower-case suffix: "a/b.c.jpg" is sample "a/b" with "c.jpg", as WebDataset has it."""
    folder, _, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    return f"{folder}/{stem}" if folder else stem, suffix.lower()


def _load(content: bytes, resolution: int) -> Image.Image:
    return open_image(io.BytesIO(content), resolution)
