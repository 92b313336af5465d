"""Pictures for people: a grid of images with their captions."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

_MARGIN = 8
_MIN_CELL = 128  # smaller images are enlarged by a whole factor, so that their pixels stay squares
_FONT_SIZE = 13


def grid(images: Tensor, captions: Sequence[str], columns: int) -> Image.Image:
    """Images in rows of `columns`, each above its caption; captions wrap and end with an ellipsis after three lines.

    images: (N, 3, H, W) uint8. captions: N texts, an empty one leaves the place blank.
    """
    if len(images) != len(captions) or len(images) == 0 or columns < 1:
        raise ValueError(
            f"a grid needs one caption an image and a column: {len(images)} images, {len(captions)} captions"
        )
    height, width = images.shape[-2:]
    factor = max(1, -(-_MIN_CELL // max(height, width)))
    height, width = height * factor, width * factor
    font = ImageFont.load_default(_FONT_SIZE)
    letters = max(8, int(width / font.getlength("abcdefghij nop") * 14))
    texts = [textwrap.fill(c, letters, max_lines=3, placeholder=" …") for c in captions]
    line_height = _FONT_SIZE + 4
    text_height = line_height * max(t.count("\n") + 1 if t else 0 for t in texts)
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    cell = (width + _MARGIN, height + text_height + _MARGIN)
    sheet = Image.new("RGB", (columns * cell[0] + _MARGIN, rows * cell[1] + _MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (image, text) in enumerate(zip(images.permute(0, 2, 3, 1).cpu().numpy(), texts, strict=True)):
        left, top = _MARGIN + i % columns * cell[0], _MARGIN + i // columns * cell[1]
        sheet.paste(Image.fromarray(image).resize((width, height), Image.Resampling.NEAREST), (left, top))
        draw.multiline_text((left, top + height + 1), text, fill="black", font=font, spacing=line_height - _FONT_SIZE)
    return sheet
