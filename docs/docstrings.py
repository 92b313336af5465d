"""Docstrings as Markdown: the project writes `name: what it is. other: what that is.`, which becomes a list."""

from __future__ import annotations

import re
from collections.abc import Set
from typing import Any

import griffe

FIELD = re.compile(r"(?:^|(?<=[.;] ))(\w+(?:, \w+)*): ")
RAISES = re.compile(r"(?<=[.;]) (?=(?:Raises )?\w*Error\b)")


class Fields(griffe.Extension):
    """Parameters and attributes that a docstring explains become a list; formulae keep their signs."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        if obj.docstring:
            known = {*obj.members} | {parameter.name for parameter in getattr(obj, "parameters", ())}
            obj.docstring.value = as_markdown(obj.docstring.value, known)


def as_markdown(text: str, known: Set[str]) -> str:
    """A docstring whose paragraphs are joined, and their fields listed. known: names that may be fields."""
    paragraphs = []
    for paragraph in re.split(r"\n\s*\n|\n(?=>>> )", text):
        if paragraph.startswith(">>> "):
            paragraphs.append(f"```python\n{paragraph}\n```")
        elif paragraph.startswith(" "):
            paragraphs.append(paragraph)  # a formula, or code
        else:
            paragraphs.append(listed(" ".join(line.strip() for line in paragraph.splitlines()), known))
    return "\n\n".join(paragraphs).replace("```\n\n```python\n", "")


def listed(paragraph: str, known: Set[str]) -> str:
    """A paragraph with a list of its fields."""
    fields = [m for m in FIELD.finditer(paragraph) if all(name in known for name in m[1].split(", "))]
    if not fields:
        return escaped(paragraph)
    ends = [*(m.start() for m in fields[1:]), len(paragraph)]
    rows = [(m[1], paragraph[m.end() : end].strip()) for m, end in zip(fields, ends, strict=True)]
    name, last = rows[-1]
    last, *errors = RAISES.split(last, maxsplit=1)
    rows[-1] = (name, last)
    before = paragraph[: fields[0].start()].strip()
    points = "\n".join(f"- **{name}**: {escaped(what)}" for name, what in rows)
    return "\n\n".join(part for part in (escaped(before), points, *map(escaped, errors)) if part)


def escaped(text: str) -> str:
    """Signs of formulae that Markdown would take for its own, outside of code."""
    parts = re.split("(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([*<|\[\\])", r"\\\1", part) for part in parts)
