"""Pictures for people: a grid of images with their captions."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Sequence

from PIL import Image, ImageDraw
from torch import Tensor

from trainer.sampling import fonts

_MARGIN = 8
_MIN_CELL = 128  # smaller images are enlarged by a whole factor, so that their pixels stay squares
_LINE = fonts.SIZE + 4
_MOST_LINES = 12
_BORDER = (208, 208, 208)  # else a white picture has no edge on the sheet
_DOT = 12  # pixels in front of a caption
_LEGEND = ((True, "seen in training"), (False, "never seen"))


def grid(images: Tensor, captions: Sequence[str], columns: int, seen: Sequence[bool] | None = None) -> Image.Image:
    """Images in rows of `columns`, each above its whole caption; of one beyond twelve lines what others share is cut.

    images: (N, 3, H, W) uint8. captions: N texts, an empty one leaves the place blank. seen: N, whether a caption was
    trained on: a full or an empty dot in front of it, explained below the sheet.
    """
    if len(images) != len(captions) or len(images) == 0 or columns < 1:
        raise ValueError(
            f"a grid needs one caption an image and a column: {len(images)} images, {len(captions)} captions"
        )
    height, width = images.shape[-2:]
    factor = max(1, -(-_MIN_CELL // max(height, width)))
    height, width = height * factor, width * factor
    texts = wrapped(captions, width, _DOT if seen is not None else 0)
    columns = min(columns, len(images))
    rows = [texts[start : start + columns] for start in range(0, len(texts), columns)]
    heights = [height + _MARGIN + _LINE * max(map(len, row)) for row in rows]
    size = columns * (width + _MARGIN) + _MARGIN, sum(heights) + _MARGIN + _LINE * (seen is not None)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for i, (image, lines) in enumerate(zip(images.permute(0, 2, 3, 1).cpu().numpy(), texts, strict=True)):
        left, top = _MARGIN + i % columns * (width + _MARGIN), _MARGIN + sum(heights[: i // columns])
        draw.rectangle((left - 1, top - 1, left + width, top + height), outline=_BORDER)
        sheet.paste(Image.fromarray(image).resize((width, height), Image.Resampling.NEAREST), (left, top))
        if seen is not None and lines:
            dot(draw, left, top + height + 2, seen[i])
        for number, line in enumerate(lines):
            indent = _DOT if seen is not None and number == 0 else 0
            fonts.write(draw, (left + indent, top + height + 1 + number * _LINE), line)
    if seen is not None:
        left, top = _MARGIN, size[1] - _LINE - 2
        for is_seen, words in _LEGEND:
            dot(draw, left, top + 1, is_seen)
            fonts.write(draw, (left + _DOT, top), words)
            left += _DOT + int(fonts.length(words)) + 2 * _MARGIN
    return sheet


def dot(draw: ImageDraw.ImageDraw, left: int, top: int, is_full: bool) -> None:
    draw.ellipse((left, top + 3, left + 7, top + 10), outline="black", fill="black" if is_full else None)


def wrapped(captions: Sequence[str], width: int, indent: int = 0) -> list[list[str]]:
    """The lines of each caption, at most `width` pixels long, the first shorter by `indent`."""
    captions = [fonts.readable(caption) for caption in captions]
    known = sorted(set(captions))
    shared = dict.fromkeys(known, 0)  # letters that a caption begins with as another does
    for one, other in itertools.pairwise(known):
        common = sum(itertools.takewhile(bool, map(str.__eq__, one, other)))
        shared[one], shared[other] = max(shared[one], common), max(shared[other], common)
    found: dict[str, list[str]] = {}
    for caption in known:
        lines = wrap(caption, width, indent)
        if len(lines) > _MOST_LINES and shared[caption] > sum(map(len, lines[: _MOST_LINES // 2])):
            lines = wrap(f"… {caption[max(shared[caption] - 20, 0) :]}", width, indent)
        if len(lines) > _MOST_LINES:
            lines = [*lines[: _MOST_LINES - 1], f"{lines[_MOST_LINES - 1][:-2]} …"]
        found[caption] = lines
    return [found[caption] for caption in captions]


def wrap(text: str, width: int, indent: int = 0) -> list[str]:
    """Lines of a text, broken between words, at wide letters as of Chinese, and within a word that is too long."""
    lines: list[str] = []
    line = ""
    for word in re.findall(r"\S+\s*|\s+", " ".join(text.split())):
        wide = any(unicodedata.east_asian_width(letter) in "WF" for letter in word)
        whole = not wide and fonts.length(word.rstrip()) <= width
        for piece in [word] if whole else word:
            if line and fonts.length(f"{line}{piece}".rstrip()) > width - (0 if lines else indent):
                lines.append(line.rstrip())
                line = ""
            line += piece
    return [*lines, line.rstrip()] if line.strip() else lines
