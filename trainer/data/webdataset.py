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
    MAX_BYTES,
    MAX_TEXT,
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
_TEXTS = ("txt", "json")
_HEADERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_HEADER_BYTES = 2**20  # of extended attributes or a long name


class _Member(tarfile.TarInfo):
    """Refuses headers that would fill the memory before there is a member."""

    def _proc_member(self, tar: tarfile.TarFile) -> Any:
        if self.type in _HEADERS and self.size > _HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {self.size:,} bytes")
        return super()._proc_member(tar)  # type: ignore[misc]


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
                with tarfile.open(file, "r|*", tarinfo=_Member) as tar:
                    yield from self._items(tar, file)
            except _BROKEN as error:
                raise UserError(f"{file}: not a whole tar file ({error}); fetch it again or remove it") from error

    def _files(self) -> dict[str, tuple[int, int]]:
        return find_shards(self.root, ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")

    def _items(self, tar: tarfile.TarFile, file: str) -> Iterator[Item]:
        members = (member for member in tar if member.isfile())
        for name, parts in groupby(members, lambda member: _split(member.name)[0]):
            sample = {suffix: content for suffix, content in (self._read(tar, each, file) for each in parts) if suffix}
            image = next((content for suffix, content in sample.items() if suffix not in _TEXTS), None)
            if image is None:
                continue  # other modalities, or a tar's own notes
            where = f"{file}, sample {name}"
            text, concept = self._described(where, sample)
            captions = caption_list(text, where)
            yield Item(where, captions, concept_name(concept, captions, where), partial(_load, image))

    def _read(self, tar: tarfile.TarFile, member: tarfile.TarInfo, file: str) -> tuple[str, bytes]:
        """(suffix, content) of an image or a caption; of all else nothing is read. UserError for what is too large."""
        suffix = _split(member.name)[1]
        if suffix not in _TEXTS and f".{suffix}" not in IMAGE_SUFFIXES:
            return "", b""
        limit = MAX_TEXT if suffix in _TEXTS else MAX_BYTES
        if member.size > limit:
            raise UserError(
                f"{file}, {member.name}: {member.size:,} bytes, more than the {limit:,} that are read; remove it"
            )
        content = tar.extractfile(member)
        return (suffix, content.read()) if content else ("", b"")

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
