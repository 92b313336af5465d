"""Captions of a folder of pictures, kept beside those that people have written."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from trainer.data import tables
from trainer.data.build import CORRUPT, fit
from trainer.data.captions import CAPTION_KEYS, IMAGE_KEYS, key_of
from trainer.data.files import IMAGE_SUFFIXES, find_files, open_image, with_suffix
from trainer.data.folder import TEXTS
from trainer.errors import UserError
from trainer.process.progress import Progress, say
from trainer.runs import run_folder
from trainer.sampling.captions import Written, captions_of

if TYPE_CHECKING:
    from trainer.sampling.pipeline import Pipeline

TABLE = "metadata.jsonl"


@dataclass(frozen=True)
class Writing:
    """How captions are written: by a search of so many beams, of `batch_size` pictures at a time, `count` of each.

    seed: the first of the latents of a captioner that has them, one a caption.
    """

    beams: int = 4
    batch_size: int = 64
    count: int = 1
    seed: int = 0

    def check(self, pipe: Pipeline) -> None:
        """UserError for several captions of a captioner that always writes the same."""
        captioner = getattr(pipe.objective, "captioner", None)
        if self.count > 1 and captioner is not None and not captioner.latent_channels:
            raise UserError(
                f"num_captions={self.count}: {pipe.config.get('name')} always writes the same of a picture; give a run "
                "of captioning_vae"
            )


def described(
    pipe: Pipeline, paths: Sequence[Path], how: Writing, alone: bool = False
) -> Iterator[tuple[Path, list[Written]]]:
    """Each picture that can be read, with its distinct captions; a line for each that cannot, UserError where `alone`.
    """
    how.check(pipe)
    batch_size = how.batch_size
    resolution = pipe.config["data"]["resolution"]
    progress = Progress("described", "pictures", len(paths))
    for start in range(0, len(paths), batch_size):
        read: list[tuple[Path, np.ndarray]] = []
        for path in paths[start : start + batch_size]:
            try:
                read.append((path, np.asarray(fit(open_image(path, resolution), resolution))))
            except CORRUPT as error:
                if alone:
                    raise UserError(f"source={path}: not a picture that can be read ({error})") from error
                say(f"{path}: not a picture that can be read ({error}); left out")
        if read:
            pixels = torch.from_numpy(np.stack([each for _, each in read])).permute(0, 3, 1, 2)
            seeds = range(how.seed, how.seed + how.count)
            several = [captions_of(pipe.objective, pipe.text, pixels, how.beams, batch_size, seed) for seed in seeds]
            for (path, _), found in zip(read, zip(*several, strict=True), strict=True):
                distinct: dict[str, Written] = {}
                for each in found:
                    distinct.setdefault(each.text, each)
                yield path, [each for each in distinct.values() if each.text]
        progress(min(start + batch_size, len(paths)))


def write(pipe: Pipeline, folder: Path, out: str | None, how: Writing) -> None:
    """FOLDER/metadata.jsonl, or `out`, with a line for each picture below it that has no caption yet.

    Lines that are there stay as they are, and where these stand in the order of their pictures, others come in between,
    so that who learns from them sees pictures in one order, whoever described which. Captions of text files beside
    pictures are taken into the table, as who reads it reads no others. What is written here says so: "machine": true,
    by which model, and its mean log probability a piece, of several captions the lowest. Where all have captions
    nothing is written.
    """
    root, files, images, table = pictures(folder, out)
    lines: list[tuple[str, str]] = []
    for image, key, row in known_rows(root, files, images):
        if key is not None and row[key]:
            lines.append((image, json.dumps(row, ensure_ascii=False)))
    captioned = {image for image, _ in lines}
    in_order = [image for image, _ in lines] == [image for image in images if image in captioned]
    missing = [Path(image) for image in images if image not in captioned]
    if not missing:
        print(f"all {len(images)} pictures of {folder} have captions: nothing is written")
        return
    model = f"{pipe.config.get('name')} {run_folder.of(pipe.path.resolve()).name}/{pipe.path.name}"
    scores, num_captions = [], 0
    for path, found in described(pipe, missing, how):
        if not found:
            say(f"{path}: the model has no words for it; left out")
            continue
        texts, score = [each.text for each in found], min(each.score for each in found)
        row = {"file_name": os.path.relpath(path, root), "text": texts if len(texts) > 1 else texts[0],
               "machine": True, "model": model, "score": round(score, 4)}  # fmt: skip
        lines.append((str(path), json.dumps(row, ensure_ascii=False)))
        scores.append(score)
        num_captions += len(texts)
    if in_order:
        place = {image: number for number, image in enumerate(images)}
        lines.sort(key=lambda line: place[line[0]])
    write_table(table, [line for _, line in lines])
    mean = f", mean score {sum(scores) / len(scores):.3f}" if scores else ""
    own = len(lines) - len(scores)
    print(f"{table}: {num_captions} captions of {model}{mean}; {own} of {len(images)} pictures had theirs")


def pictures(folder: Path, out: str | None) -> tuple[Path, dict[str, Any], Sequence[str], Path]:
    """Of a folder: itself, its files, the pictures among them, and the table that is written; UserError without any."""
    root = folder.resolve()
    files = find_files(root)
    images = with_suffix(files, *IMAGE_SUFFIXES)
    if not images:
        raise UserError(f"source={folder}: no picture in it; expected .png, .jpg, .webp, ...")
    others = [file for file in files if Path(file).name.startswith("metadata.") and Path(file) != root / TABLE]
    if others:
        raise UserError(f"{others[0]}: captions are added to a {TABLE} in {root} alone; bring its rows there first")
    return root, files, images, Path(out).expanduser() if out else root / TABLE


def known_rows(
    root: Path, files: dict[str, Any], images: Sequence[str]
) -> Iterator[tuple[str, str | None, dict[str, Any]]]:
    """(picture, key of its captions, row) of the table as it stands, or as text files make it."""
    table = root / TABLE
    if str(table) in files:
        for where, row in tables.rows(str(table)):
            name = key_of(row, None, IMAGE_KEYS)
            if name is None:
                raise UserError(f"{where}: it names no picture; expected {tables.EXAMPLE}")
            yield os.path.normpath(root / str(row[name])), key_of(row, None, CAPTION_KEYS), row
        return
    for image in images:
        stem = os.path.splitext(image)[0]
        text_file = next((stem + suffix for suffix in TEXTS if stem + suffix in files), None)
        said = [line.strip() for line in tables.lines(text_file) if line.strip()] if text_file else []
        if said:
            row = {"file_name": os.path.relpath(image, root), "text": said if len(said) > 1 else said[0]}
            yield image, "text", row


def write_table(table: Path, lines: Sequence[str]) -> None:
    """Whole, or not at all."""
    writing = table.with_name(f".{table.name}.tmp")
    try:
        writing.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        writing.replace(table)
    except OSError as error:
        raise UserError(f"{table}: {error.strerror}; name a file that can be written by out=") from error
