"""Captions as sources have them, and what is done with a picture that has none."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from trainer.errors import UserError
from trainer.process.progress import say

CAPTION_KEYS = ("text", "caption", "captions", "prompt", "label")  # as data sets name them, the first that is there
IMAGE_KEYS = ("file_name", "image", "file", "filename", "file_path", "path", "img")
SOURCE_KEYS = ("source", "conditioning_image", "input_image")  # what a picture was made from, for a translation
RULES = ("error", "skip", "empty", "filename", "folder")
_SHOWN = 5


class Uncaptioned:
    """The rule `data.source.uncaptioned` for pictures without a caption: counts them, and says so in one line.

    error: none may be. skip: they are left out. empty: "". filename, folder: the words of the file's or its folder's
    name. UserError for any other rule.
    """

    def __init__(self, rule: str) -> None:
        if rule not in RULES:
            raise UserError(f"data.source.uncaptioned={rule}: expected one of {', '.join(RULES)}")
        self.rule, self.count = rule, 0
        self.shown: list[str] = []

    def __call__(self, name: str, where: str = "") -> tuple[str, ...]:
        """The captions of a picture of this path; () where it is left out. where: the line that lacks a caption."""
        self.count += 1
        if len(self.shown) < _SHOWN:
            self.shown.append(where or name)
        folder, base = os.path.split(name)
        if self.rule == "empty":
            return ("",)
        if self.rule not in ("filename", "folder"):
            return ()
        return (words(os.path.splitext(base)[0] if self.rule == "filename" else os.path.basename(folder)),)

    def tell(self, remedy: str) -> None:
        """To be called behind the last picture. UserError that names the first ones where none may be."""
        if not self.count:
            return
        names = ", ".join(self.shown) + (", ..." if self.count > _SHOWN else "")
        if self.rule == "error":
            others = ", ".join(RULES[1:-1]) + f" or {RULES[-1]}"
            lack = "1 image without a caption" if self.count == 1 else f"{self.count:,} images without a caption"
            raise UserError(f"{lack}: {names}; {remedy}, or say data.source.uncaptioned={others}")
        done = {"skip": "left out", "empty": "have an empty one", "filename": "have their file's name for one"}
        say(f"{self.count:,} images without a caption {done.get(self.rule, 'have the name of their folder for one')}")


def words(name: str) -> str:
    """A file's name as text: "a_red-bicycle" is "a red bicycle"."""
    return " ".join(re.split(r"[\s_-]+", name)).strip() or name


def caption_list(text: object, where: str) -> tuple[str, ...]:
    """One caption or a list, without blank ones; a class may be a number. UserError that begins with `where`."""
    given = list(text) if isinstance(text, list | tuple) else [] if text is None else [text]
    for each in given:
        if isinstance(each, bool) or not isinstance(each, str | int | None):
            kind = type(text).__name__
            raise UserError(f"{where}: caption is {text!r:.60}, a {kind}; expected text or a list of texts")
    return tuple(caption for each in given if each is not None and (caption := str(each).strip()))


def concept_name(concept: object, captions: tuple[str, ...], where: str) -> str:
    """What groups images for the split: text or a whole number; the first caption where there is none."""
    if concept is None or concept == "":
        return captions[0]
    if not isinstance(concept, str | int):
        raise UserError(f"{where}: concept is {concept!r:.60}, a {type(concept).__name__}; expected text or a number")
    return str(concept)


def key_of(present: Iterable[str] | Mapping[str, Any], wanted: str | None, usual: tuple[str, ...]) -> str | None:
    """`wanted`, else the first usual key, if it is among those present."""
    names = set(present)
    return next((key for key in ([wanted] if wanted else usual) if key in names), None)
