"""The page around a report, and its parts; everything is within the file, nothing is fetched."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from PIL import Image

from trainer.errors import UserError

STYLE = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
SLIDER = """
for (const box of document.querySelectorAll(".evolution")) {
  const shots = [...box.querySelectorAll("figure")], slider = box.querySelector("input");
  const show = () => shots.forEach((shot, i) => shot.hidden = i != slider.value);
  slider.parentElement.hidden = shots.length < 2;
  slider.addEventListener("input", show);
  show();
}
"""
LONG = 60  # letters of a cell that count as a text
MAX_PIXELS = 2**27  # of a picture that is embedded
PIXELS_WIDE = 1120  # of an embedded picture; larger ones are scaled down


def page(title: str, parts: Iterable[str]) -> str:
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE}</style></head>\n<body><main>\n{body}\n</main>\n"
        f"<script>{SLIDER}</script></body></html>\n"
    )


@dataclass
class Frame:
    """A page within a notebook."""

    content: str
    height: int

    def _repr_html_(self) -> str:
        return f'<iframe width="100%" height="{self.height}" frameborder="0" srcdoc="{escape(self.content)}"></iframe>'


def save(path: Path, content: str) -> Path:
    """Writes a page whole or not at all; its path. UserError where it cannot be written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(content, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; name a file that can be written") from error
    return path


def section(title: str, *parts: str) -> str:
    """Nothing where there is nothing to say."""
    content = "\n".join(part for part in parts if part)
    return f"<section><h2>{escape(title)}</h2>\n{content}</section>" if content else ""


def tiles(facts: Iterable[tuple[str, str, str]]) -> str:
    """Headline figures: (name, value, remark)."""
    cells = (
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(remark)}</small></dd></div>"
        for name, value, remark in facts
    )
    return f'<dl class="tiles">{"".join(cells)}</dl>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are HTML. A box of its own, which scrolls where it is too wide."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(map(td, row))}</tr>\n" for row in rows)
    thead = f"<thead><tr>{top}</tr></thead>" if head else ""
    kind = "" if head else ' class="pairs"'
    return f'<div class="box" tabindex="0"><table{kind}>{thead}<tbody>\n{body}</tbody></table></div>' if body else ""


def td(cell: str) -> str:
    """Long texts wrap, in a column that stays wide enough to read."""
    return f'<td class="text">{cell}</td>' if len(cell) > LONG and "<p" not in cell else f"<td>{cell}</td>"


def state(name: str) -> str:
    """How a run ended, in the colour of it."""
    return f'<span class="state {escape(name)}">{escape(name)}</span>'


def details(summary: str, content: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>\n{content}</details>"


def text(content: str) -> str:
    """As it is, in a box that scrolls."""
    return f'<pre class="box" tabindex="0">{escape(content)}</pre>'


def notes(lines: Iterable[str], kind: str = "warning") -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<ul class="notes {kind}">{items}</ul>' if items else ""


def picture(path: Path, caption: str) -> str:
    """A figure of an image file, embedded as JPEG; a line in its place where it cannot be read."""
    try:
        if not path.is_file():  # a pipe would never end
            raise OSError
        with Image.open(path, formats=["PNG"]) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            image = opened.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # cut short by a full disk, or no grid
        return notes([f"{path.name} cannot be read"])
    with io.BytesIO() as held:
        if image.width > PIXELS_WIDE:
            image = image.resize(
                (PIXELS_WIDE, round(image.height * PIXELS_WIDE / image.width)), Image.Resampling.LANCZOS
            )
        image.save(held, "JPEG", quality=86)
        data = base64.b64encode(held.getvalue()).decode()
    size = f'width="{image.width}" height="{image.height}"'
    return (
        f'<figure class="shot"><figcaption>{escape(caption)}</figcaption><div class="box" tabindex="0">'
        f'<img {size} alt="samples at {escape(caption)}" src="data:image/jpeg;base64,{data}"></div></figure>'
    )
