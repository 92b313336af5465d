"""Pictures in a folder: the imagefolder convention of Hugging Face datasets, COCO's, or a text file beside each."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from trainer.data import tables
from trainer.data.captions import (
    CAPTION_KEYS,
    IMAGE_KEYS,
    SOURCE_KEYS,
    Uncaptioned,
    caption_list,
    concept_name,
    key_of,
)
from trainer.data.contents import stamp
from trainer.data.files import (
    IMAGE_SUFFIXES,
    MAX_TEXT,
    OTHER_SUFFIXES,
    Items,
    existing,
    find_files,
    open_image,
    with_suffix,
)
from trainer.data.finder import Finder
from trainer.data.source import Item, Place
from trainer.errors import UserError
from trainer.process.progress import Progress, say

_METADATA = tuple(f"metadata{suffix}" for suffix in tables.SUFFIXES)
TEXTS = (".txt", ".caption")


class Folder:
    """Images under `path`, at any depth, captioned in one of two ways.

    A table: metadata.jsonl, .csv, .json or .parquet in any folder, or the file `annotations`, COCO's JSON among them.
    Its rows name an image, relative to the table or to `path`, and one or a list of captions, optionally a concept; all
    else becomes attributes. Or a text file beside each image, a.txt or a.caption for a.jpg, one caption a line.
    image_key, caption_key: their names in tables; None takes the usual ones. source_key: that of the picture from which
    one is translated, which is no picture of its own then; None takes a usual one whose value is named like a picture.
    machine_captions: how often images are seen whose rows are marked "machine": true, as of trainer.caption, beside one
    that a person captioned: from 1, alike, to 0, never. Then "enriched" captions, as of trainer.enrich, count not, too.
    min_score: of machine's, those with a score from there on, None for all.
    uncaptioned: what is done with images that neither names, see `Uncaptioned`. The concept defaults to the first
    caption, or to the image where that is made up. UserError that names the file and line of whatever is wrong.
    """

    attribution = ""

    def __init__(
        self,
        path: str,
        annotations: str | None = None,
        image_key: str | None = None,
        caption_key: str | None = None,
        uncaptioned: str = "error",
        machine_captions: bool | float = True,
        min_score: float | None = None,
        source_key: str | None = None,
    ) -> None:
        self.root = existing(path)
        if not self.root.is_dir():
            raise UserError(f"data.source.path={path}: a file; expected a folder of images")
        Uncaptioned(uncaptioned)
        if not 0 <= machine_captions <= 1:
            raise UserError(
                f"data.source.machine_captions={machine_captions}: expected how often they are seen beside those of "
                "people, from 0 (false), never, to 1 (true), alike"
            )
        self.uncaptioned, self.image_key, self.caption_key = uncaptioned, image_key, caption_key
        self.machine_captions, self.min_score, self.source_key = machine_captions, min_score, source_key
        self.annotations = None if annotations is None else self._annotations(annotations)

    def _annotations(self, path: str) -> str:
        file = Path(os.path.expanduser(path))
        file = file if file.is_file() else self.root / file
        if not file.is_file():
            raise UserError(f"data.source.annotations={path}: no such file, nor in {self.root}")
        return str(file.resolve())

    @property
    def base(self) -> str:
        return str(self.root)

    def fingerprint(self) -> str:
        files = find_files(self.root)
        metadata = self._metadata(files)
        kept = [*with_suffix(files, *IMAGE_SUFFIXES), *([] if metadata else with_suffix(files, *TEXTS))]
        contents = (hashlib.blake2b(Path(file).read_bytes()).hexdigest() for file in metadata)
        places = [os.path.relpath(file, self.root) for file in metadata]
        how: tuple[Any, ...] = (self.image_key, self.caption_key, self.uncaptioned)
        if not self.machine_captions or self.min_score is not None:
            how = (*how, self.machine_captions > 0, self.min_score)  # how often, pixels do not ask
        if self.source_key is not None:
            how = (*how, "source", self.source_key)
        return stamp({file: files[file] for file in kept}, *how, *places, *contents)

    def items(self) -> Items:
        """Every caption is checked before the first image is decoded."""
        files = find_files(self.root)
        images = with_suffix(files, *IMAGE_SUFFIXES)
        if not images:
            raise UserError(f"data.source.path={self.root}: no image in it; expected {' '.join(IMAGE_SUFFIXES)}")
        if others := with_suffix(files, *OTHER_SUFFIXES):
            say(f"{len(others):,} pictures of a kind that is not read are left out, as {others[0]}")
        metadata = self._metadata(files)
        if metadata:
            read = partial(self._from_tables, metadata, files, images)
            remedy = f"add to {metadata[0]}"
        else:
            read = partial(self._from_texts, files, images)
            remedy = f"write {os.path.splitext(images[0])[0]}.txt and the like, or a metadata.jsonl{_near(files)}"
        rule = Uncaptioned(self.uncaptioned)
        progress, count = Progress("reading", "captions"), 0
        for count, _ in enumerate(read(rule), 1):
            progress(count)
        rule.tell(remedy)
        return Items(lambda: read(Uncaptioned(self.uncaptioned)), count)

    def _metadata(self, files: dict[str, Any]) -> list[str]:
        if self.annotations:
            return [self.annotations]
        return [file for file in files if os.path.basename(file) in _METADATA]

    def _from_texts(self, files: dict[str, tuple[int, int]], images: list[str], rule: Uncaptioned) -> Iterator[Item]:
        for image in images:
            captions: tuple[str, ...] = ()
            stem = os.path.splitext(image)[0]
            text = next((stem + suffix for suffix in TEXTS if stem + suffix in files), None)
            if text:
                if files[text][0] > MAX_TEXT:
                    raise UserError(f"{text}: {files[text][0]:,} bytes; expected captions, at most {MAX_TEXT:,}")
                captions = caption_list(list(tables.lines(text)), text)
            yield from self._item(files, image, captions, None, {}, "", rule)

    def _from_tables(
        self, metadata: list[str], files: dict[str, tuple[int, int]], images: list[str], rule: Uncaptioned
    ) -> Iterator[Item]:
        captioned: dict[str, str] = {}
        sources: set[str] = set()
        find = Finder(str(self.root), files)
        for file in metadata:
            for where, row in tables.rows(file):
                name_key = self._key(row, where, "image_key", self.image_key, IMAGE_KEYS)
                text_key = self._key(row, where, "caption_key", self.caption_key, CAPTION_KEYS)
                image = find(row[name_key], file, where, name_key)
                if image in captioned:
                    remedy = 'write all captions of an image into one line, "text": ["one", "two"]'
                    raise UserError(f"{where}: {row[name_key]} has its captions in {captioned[image]}; {remedy}")
                captioned[image] = where
                start = self._source(row, where, find, file)
                sources.update(start[1:])
                taken = (name_key, text_key, "concept", "enriched", *start[:1])
                attributes = {key: row[key] for key in row if key not in taken}
                if not self._counts(row, where):
                    continue
                captions = caption_list(row[text_key], where)
                if captions and self.machine_captions:
                    captions += caption_list(row.get("enriched"), where)
                yield from self._item(files, image, captions, row.get("concept"), attributes, where, rule, *start[1:])
        for image in images:
            if image not in captioned and image not in sources:
                yield from self._item(files, image, (), None, {}, "", rule)

    def _source(self, row: dict[str, Any], where: str, find: Finder, table: str) -> tuple[str, ...]:
        """The key of the picture that a row's image starts from, and its file; () where there is none."""
        key = key_of(row, self.source_key, SOURCE_KEYS)
        if key is None and self.source_key is not None:
            among = ", ".join(map(str, row))
            raise UserError(f"{where}: no {self.source_key!r} among {among}; correct data.source.source_key=")
        name = row[key] if key is not None else None
        pictured = isinstance(name, str) and name.lower().endswith(IMAGE_SUFFIXES) and "://" not in name
        if key is None or not (pictured or self.source_key):  # a usual word says other things as well
            return ()
        return key, find(name, table, where, key)

    def _counts(self, row: dict[str, Any], where: str) -> bool:
        """Whether the caption of a row is one: what people wrote is."""
        if row.get("machine") is not True:
            return True
        score = row.get("score")
        if self.min_score is None or not self.machine_captions:
            return self.machine_captions > 0
        if not isinstance(score, int | float):
            raise UserError(f"{where}: score is {score!r:.40}; expected a number, as trainer.caption writes it")
        return score >= self.min_score

    def _key(self, row: dict[str, Any], where: str, option: str, wanted: str | None, usual: tuple[str, ...]) -> str:
        key = key_of(row, wanted, usual)
        if key is None:
            near = get_close_matches(wanted or usual[0], map(str, row), 1)
            remedy = f"rename {near[0]!r} or say data.source.{option}=" if near else f"say data.source.{option}=, or"
            expected = "" if near else f" write {tables.EXAMPLE}"
            among = ", ".join(map(str, row)) or "no keys"
            raise UserError(f"{where}: no {wanted or usual[0]!r} among {among}; {remedy}{expected}")
        return key

    def _item(
        self,
        files: dict[str, tuple[int, int]],
        image: str,
        captions: tuple[str, ...],
        concept: Any,
        attributes: dict[str, Any],
        where: str,
        rule: Uncaptioned,
        start: str | None = None,
    ) -> Iterator[Item]:
        key = os.path.relpath(image, self.root)
        if not captions:
            captions = rule(image, where)
            concept = key if concept in (None, "") else concept
        if captions:
            concept = concept_name(concept, captions, where)
            source = None
            if start is not None:
                source = Item(os.path.relpath(start, self.root), captions, concept, **_found(start, files))
            yield Item(key, captions, concept, attributes=attributes, source=source, **_found(image, files))


def _found(file: str, files: dict[str, tuple[int, int]]) -> dict[str, Any]:
    return {"load": partial(open_image, file), "place": Place(file, 0, max(files[file][0], 0))}


def _near(files: dict[str, Any]) -> str:
    """What looks like a table of captions, but is not called so."""
    names = ((file, os.path.basename(file).lower()) for file in files)
    tabular = [file for file, name in names if name.endswith(tables.SUFFIXES) or name.startswith("metadata.")]
    if not tabular:
        return ""
    return f" (there is {tabular[0]}: name it metadata.jsonl, .csv, .json or .parquet, or say data.source.annotations=)"
