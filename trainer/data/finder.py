"""Which file a table of captions means by a name."""

from __future__ import annotations

import os
import unicodedata
from typing import Any

from trainer.errors import UserError


class Finder:
    """The file that a table means by a name: relative to the table, to the root, or to the folder above the table.

    Backslashes count as slashes and names match in any Unicode normal form, as systems write them differently.
    """

    def __init__(self, root: str, files: dict[str, Any]) -> None:
        self.root, self.files = root, files
        self._normal: dict[str, str] | None = None

    def __call__(self, name: Any, table: str, where: str, key: str) -> str:
        if not isinstance(name, str) or not name:
            raise UserError(f"{where}: {key} is {name!r:.60}; expected an image, relative to {table}")
        folder = os.path.dirname(table)
        places = [folder, self.root, os.path.dirname(folder)]
        for spelled in dict.fromkeys((name, name.replace("\\", "/"))):
            for place in places:
                if (found := os.path.normpath(os.path.join(place, spelled))) in self.files:
                    return found
        if self._normal is None:
            self._normal = {unicodedata.normalize("NFC", file): file for file in self.files}
        for place in places:
            path = os.path.normpath(os.path.join(place, name.replace("\\", "/")))
            if path := self._normal.get(unicodedata.normalize("NFC", path), ""):
                return path
        missing = os.path.normpath(os.path.join(folder, name))
        raise UserError(f"{where}: there is no file {missing}; correct {key} or remove the line")
