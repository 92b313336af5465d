"""Packages of npm, where npm puts them: in node_modules of the working folder and of those above."""

from __future__ import annotations

from pathlib import Path

from trainer.errors import UserError


def places(package: str) -> list[Path]:
    """The folders in which it is looked for, nearest first."""
    work = Path.cwd()
    return [place / "node_modules" / package for place in (work, *work.parents)]


def folder(package: str, what_needs_it: str) -> Path:
    """That of the package; UserError where it is not installed, with the command that does so."""
    for place in places(package):
        if place.is_dir():
            return place
    where = Path.cwd() / "node_modules"
    raise UserError(f"{what_needs_it} needs the package {package}, which is not in {where}: npm install {package}")
