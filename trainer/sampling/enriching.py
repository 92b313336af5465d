"""Descriptions of a folder's captions, kept beside these."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.data.captions import caption_list
from trainer.errors import UserError
from trainer.sampling.describing import known_rows, pictures, write_table

if TYPE_CHECKING:
    from trainer.text.enrichment import Enricher


def write(enricher: Enricher, folder: Path, out: str | None) -> None:
    """FOLDER/metadata.jsonl, or `out`, with a description beside each caption: "enriched" and "enriched_by".

    Captions and all else stay as they are, lines that have "enriched" too; captions of text files beside pictures are
    taken into the table, as who reads it reads no others. Where nothing is to be made nothing is written.
    """
    if not folder.is_dir():
        raise UserError(f"data={folder}: no such folder; give one of pictures with captions")
    root, files, images, table = pictures(folder, out)
    rows = [(row, said(row, key)) for _, key, row in known_rows(root, files, images)]
    wanted = [(row, captions) for row, captions in rows if captions and "enriched" not in row]
    if not wanted:
        print(f"{len(rows)} lines of {folder}, none with captions to be enriched: nothing is written")
        return
    made = iter(enricher([caption for _, captions in wanted for caption in captions]))
    for row, captions in wanted:
        texts = [next(made) for _ in captions]
        row |= {"enriched": texts if len(texts) > 1 else texts[0], "enriched_by": enricher.name}
    write_table(table, [json.dumps(row, ensure_ascii=False) for row, _ in rows])
    print(f"{table}: {len(wanted)} of {len(rows)} lines enriched by {enricher.name}")


def said(row: dict[str, Any], key: str | None) -> Sequence[str]:
    """The captions of a row."""
    return () if key is None else caption_list(row[key], f"{row}"[:60])
