"""Fluent Emoji: 1,868 emoji rendered in 3-D at 256 pixels, from the npm package `@lobehub/fluent-emoji-3d`."""

from __future__ import annotations

from pathlib import Path

from trainer.data.emoji import Emoji
from trainer.data.files import existing
from trainer.data.source import digest
from trainer.errors import UserError
from trainer.process import npm

_PACKAGE = "@lobehub/fluent-emoji-3d"


class Fluent(Emoji):
    """256-pixel emoji with the captions and concepts of `Emoji`: nearly the same ones are held out, 179 of 184.

    path: the package's folder; None looks where npm puts it, in node_modules of the working folder and of those above.
    skin_tones: as of `Emoji`. UserError where there is no such package.
    """

    attribution = "emoji: Fluent Emoji, copyright Microsoft Corporation, MIT licence"
    pattern = "*.webp"

    def __init__(self, path: str | None = None, skin_tones: bool = False) -> None:
        self.path = path
        super().__init__(skin_tones)

    def fingerprint(self) -> str:
        sizes = {file.name: file.stat().st_size for file in self.folder.glob(self.pattern)}
        return digest("fluent", *((item.key, sizes[item.key], item.captions) for item in self.items()))

    def _folder(self) -> Path:
        for root in npm.places(_PACKAGE) if self.path is None else [existing(self.path)]:
            for folder in (root / "assets", root):
                if next(folder.glob(self.pattern), None):
                    return folder
        where = f"{Path.cwd()}/node_modules" if self.path is None else f"data.source.path={self.path}"
        remedy = f"npm install {_PACKAGE}, or give the folder with data.source.path="
        raise UserError(f"data=fluent needs the package {_PACKAGE}, which is not in {where}: {remedy}")
