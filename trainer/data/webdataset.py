"""WebDataset: tar files in which the members a.jpg and a.txt, or a.json, make one sample."""

from __future__ import annotations

import io
import json
import tarfile
import zlib
from collections.abc import Iterator
from functools import cached_property, partial
from itertools import groupby
from typing import Any, NamedTuple

from PIL import Image

from trainer.data.captions import CAPTION_KEYS, Uncaptioned, caption_list, concept_name, key_of
from trainer.data.contents import stamp
from trainer.data.files import (
    IMAGE_SUFFIXES,
    MAX_BYTES,
    MAX_TEXT,
    Files,
    base_of,
    existing_all,
    find_shards,
    open_image,
    opened,
    refuse_pointer,
)
from trainer.data.source import Item, Place
from trainer.errors import UserError
from trainer.size import Resolution

_BROKEN = (tarfile.TarError, EOFError, zlib.error)
TEXTS = {"txt", "json"}
_HEADERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_HEADER_BYTES = 2**20  # of extended attributes or a long name


class _Content(NamedTuple):
    """What a member holds, and where it lies in a tar that is not compressed."""

    content: bytes
    place: Place | None


class _Member(tarfile.TarInfo):
    """Refuses headers that would fill the memory before there is a member."""

    def _proc_member(self, tar: tarfile.TarFile) -> Any:
        if self.type in _HEADERS and self.size > _HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {self.size:,} bytes")
        return super()._proc_member(tar)  # type: ignore[misc]


class WebDataset:
    """One tar, a folder or a pattern of them, as {00000..00003}.tar; compressed ones too; on a disk or in a store.

    A sample is a run of members with the same name up to the first dot: one image, and captions in .txt (one a line)
    or in .json under `caption_key`, with an optional `concept`; samples without an image are left out. Where only the
    last dot tells, as in img.v1.0.png and img.v1.0.txt, it does. caption_key: None takes the usual names.
    uncaptioned: what is done with images without a caption, see `Uncaptioned`; folders are those within the tar.
    Raises UserError that names the tar and the sample of whatever is wrong.
    """

    attribution = ""

    def __init__(self, path: str, caption_key: str | None = None, uncaptioned: str = "error") -> None:
        Uncaptioned(uncaptioned)
        self.roots, self.caption_key, self.uncaptioned = existing_all(path), caption_key, uncaptioned

    def fingerprint(self) -> str:
        return stamp(self._files(), self.caption_key, self.uncaptioned)

    @cached_property
    def base(self) -> str:
        return base_of(self._files())

    def shards(self) -> list[str]:
        return [*self._files()]

    def items(self) -> Iterator[Item]:
        rule, shards = Uncaptioned(self.uncaptioned), self.shards()
        base = base_of(shards)
        for file in shards:
            yield from self._within(file, base, rule)
        rule.tell("pack a .txt or a .json beside each")

    def of(self, shard: str) -> Iterator[Item]:
        rule = Uncaptioned(self.uncaptioned)
        yield from self._within(shard, self.base, rule)
        rule.tell("pack a .txt or a .json beside each")

    def _within(self, file: str, base: str, rule: Uncaptioned) -> Iterator[Item]:
        try:
            with opened(file) as content, tarfile.open(fileobj=content, mode="r|*", tarinfo=_Member) as tar:
                yield from self._items(tar, file, file[len(base) :], rule)
                _refuse_another_tar(tar, file)
        except _BROKEN as error:
            refuse_pointer(file)
            raise UserError(f"{file}: not a whole tar file ({error}); fetch it again or remove it") from error

    def _files(self) -> Files:
        return find_shards(self.roots, ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")

    def _items(self, tar: tarfile.TarFile, file: str, key: str, rule: Uncaptioned) -> Iterator[Item]:
        """Once an image without a caption has shown that there is nothing to build, only the others are counted."""
        bare: set[str] = set()
        texts: set[str] = set()
        for name, sample in _samples(self._read(tar, file)):
            image = next((content for suffix, content in sample.items() if suffix not in TEXTS), None)
            if image is None:
                texts.add(name)  # or other modalities, or a tar's own notes
                continue
            where = f"{file}, sample {name}"
            captions, concept = self._described(where, sample)
            if not captions:
                bare.add(name)
                captions, concept = rule(f"{file}/{name}.", where), concept or f"{key}, sample {name}"
            if captions and not (rule.count and rule.rule == "error"):
                concept = concept_name(concept, captions, where)
                place = image.place or image.content
                yield Item(f"{key}, sample {name}", captions, concept, partial(_load, image.content), place=place)
        if apart := bare & texts:
            remedy = "pack it anew with tar --sort=name"
            raise UserError(f"{file}: the image and the caption of {min(apart)} stand apart; {remedy}")

    def _read(self, tar: tarfile.TarFile, file: str) -> Iterator[tuple[str, _Content]]:
        """(name, content) of images and captions; of all else nothing is read. UserError for what is too large."""
        plain = getattr(tar.fileobj, "comptype", "tar") == "tar"
        for member in tar:
            suffix = member.name.lower().rpartition(".")[2]
            if suffix not in TEXTS and f".{suffix}" not in IMAGE_SUFFIXES:
                continue
            if member.islnk() or member.issym():
                remedy = "pack the files themselves with tar --dereference --hard-dereference"
                raise UserError(f"{file}, {member.name}: a link to {member.linkname}; {remedy}")
            limit = MAX_TEXT if suffix in TEXTS else MAX_BYTES
            if member.size > limit:
                raise UserError(
                    f"{file}, {member.name}: {member.size:,} bytes, more than the {limit:,} that are read; remove it"
                )
            if content := tar.extractfile(member):
                here = Place(file, member.offset_data, member.size) if plain and not member.issparse() else None
                yield member.name, _Content(content.read(), here)

    def _described(self, where: str, sample: dict[str, _Content]) -> tuple[tuple[str, ...], Any]:
        """The sample's captions, () without, and its concept as it is in the tar."""
        try:
            fields = json.loads(sample["json"].content.decode("utf-8-sig")) if "json" in sample else {}
            if not isinstance(fields, dict):
                raise UserError(f"{where}: .json is a {type(fields).__name__}; expected an object with the caption")
            if "txt" in sample:
                return caption_list(sample["txt"].content.decode("utf-8-sig").split("\n"), where), fields.get("concept")
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise UserError(f"{where}: unreadable caption ({error}); expected UTF-8 text or JSON") from error
        if "json" not in sample:
            return (), None
        key = key_of(fields, self.caption_key, CAPTION_KEYS)
        if key is None and self.uncaptioned == "error":
            among = ", ".join(fields) or "no keys"
            wanted = self.caption_key or CAPTION_KEYS[0]
            raise UserError(f"{where}: no {wanted!r} among {among} of .json; set data.source.caption_key=")
        return caption_list(fields.get(key), where), fields.get("concept")


def _samples(members: Iterator[tuple[str, _Content]]) -> Iterator[tuple[str, dict[str, _Content]]]:
    """Name and {suffix: content} of each sample; at most a few of them in memory."""
    for first, run in groupby(members, lambda member: _stem(member[0], first_dot=True)):
        parts: dict[str, dict[str, _Content]] = {}
        for name, content in run:
            stem, suffix = _stem(name), name.lower().rpartition(".")[2]
            if suffix in parts.get(stem, {}):  # the name again: another sample
                yield stem, parts.pop(stem)
            if stem not in parts and first not in parts:
                for done in [each for each, sample in parts.items() if has_image(sample) and sample.keys() & TEXTS]:
                    yield done, parts.pop(done)
            parts.setdefault(stem, {})[suffix] = content
        if has_image(parts.get(first, {})):
            yield first, parts[first]
            continue
        with_image = [stem for stem, sample in parts.items() if has_image(sample)]
        apart = [sample for stem, sample in parts.items() if stem not in with_image]
        texts = {suffix: text for sample in apart for suffix, text in sample.items()}
        for stem in with_image:
            yield stem, (texts if len(with_image) == 1 else {}) | parts[stem]
        if not with_image:
            yield from parts.items()


def has_image(sample: dict[str, _Content]) -> bool:
    return not sample.keys() <= TEXTS


def _stem(name: str, first_dot: bool = False) -> str:
    """Of "a/b.c.jpg" it is "a/b.c", or "a/b" up to the first dot."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + (base.partition(".")[0] if first_dot else base.rpartition(".")[0])


def _refuse_another_tar(tar: tarfile.TarFile, file: str) -> None:
    """UserError where tars were joined by `cat`: readers stop at the end of the first."""
    rest: bytes = tar.fileobj.read(2**20) if tar.fileobj else b""
    if any(rest[at + 257 : at + 262] == b"ustar" for at in range(0, len(rest), 512)):
        raise UserError(f"{file}: another tar follows the end of the first; join tars by tar -A, or leave them apart")


def _load(content: bytes, resolution: Resolution) -> Image.Image:
    return open_image(io.BytesIO(content), resolution)
