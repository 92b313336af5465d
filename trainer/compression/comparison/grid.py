"""The same captions and seeds drawn by every stage, one row each."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

MARGIN, FONT_SIZE, LINE = 8, 13, 17
SMALLEST = 96  # smaller images are enlarged by a whole factor, so that their pixels stay squares


def side_by_side(rows: Mapping[str, Tensor], captions: Sequence[str]) -> Image.Image:
    """rows: stage -> (N, 3, H, W) uint8, of one shape. captions: N, each below its column."""
    shapes = {name: tuple(images.shape) for name, images in rows.items()}
    if len({*shapes.values()}) != 1 or any(shape[0] != len(captions) for shape in shapes.values()):
        raise ValueError(f"stages stand side by side with as many images of one size as captions: {shapes}")
    _, _, height, width = next(iter(shapes.values()))
    factor = max(1, -(-SMALLEST // width))
    width, height = width * factor, height * factor
    font = ImageFont.load_default(FONT_SIZE)
    left = round(max(font.getlength(name) for name in rows)) + 2 * MARGIN
    letters = max(8, int(width / font.getlength("abcdefghij nop") * 14))
    texts = [textwrap.fill(caption, letters, max_lines=4, placeholder=" …") for caption in captions]
    below = LINE * max(text.count("\n") + 1 for text in texts)
    size = left + len(captions) * (width + MARGIN), len(rows) * (height + MARGIN) + MARGIN + below
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for row, (name, images) in enumerate(rows.items()):
        top = MARGIN + row * (height + MARGIN)
        pen.text((MARGIN, top + height // 2 - FONT_SIZE), name, fill="black", font=font)
        for column, image in enumerate(images.permute(0, 2, 3, 1).cpu().numpy()):
            tile = Image.fromarray(image).resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(tile, (left + column * (width + MARGIN), top))
    for column, text in enumerate(texts):
        at = left + column * (width + MARGIN), size[1] - below - MARGIN // 2
        pen.multiline_text(at, text, fill="black", font=font, spacing=LINE - FONT_SIZE)
    return sheet
