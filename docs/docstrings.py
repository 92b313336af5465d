"""Docstrings as Markdown: the project writes `name: what it is` a line, which Markdown would run together."""

from __future__ import annotations

import re
from typing import Any

import griffe

FIELD = re.compile(r"^(\w+(?:, \w+)*): ")


class Fields(griffe.Extension):
    """Lines that begin with names and a colon become a list; formulae keep their signs."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = listed(obj.docstring.value)


def listed(text: str) -> str:
    lines = []
    in_code = False
    for line in text.splitlines():
        if line.startswith(">>> "):
            lines += [] if in_code else ["", "```python"]
            in_code = True
        elif in_code:
            lines += ["```", ""]
            in_code = False
        if in_code:
            lines.append(line)
            continue
        plain = "".join(part if part.startswith("`") else escaped(part) for part in re.split("(`[^`]*`)", line))
        field = FIELD.match(plain)
        if field:
            begins = not any(FIELD.match(each) or each.startswith("- ") for each in lines[-1:])
            lines += ([""] if begins and lines and lines[-1] else []) + [f"- **{field[1]}**: {plain[field.end() :]}"]
        else:
            lines.append(plain)
    return "\n".join(lines + ["```"] * in_code)


def escaped(text: str) -> str:
    """Signs of formulae that Markdown would take for its own."""
    return re.sub(r"([*<|\[\\])", r"\\\1", text)
