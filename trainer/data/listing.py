"""What is there in a store: files, folders of them, patterns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trainer.data.remote import asked, opened, threads
from trainer.errors import UserError
from trainer.process.progress import Progress

# what stores tell of a file that changes with it: a checksum, else a time
_TAGS = ("ETag", "etag", "md5Hash", "blob_id", "checksum", "Last-Modified", "LastModified", "updated", "mtime")

Told = dict[str, dict[str, Any]]  # file -> what its store tells of it


class Remote:
    """What `data.source.path` names in a store: the first is asked for now, all once, when they are wanted.

    names: the files, folders and patterns with * that the path stands for. Raises UserError, see `asked` and `opened`.
    """

    def __init__(self, path: str, names: Sequence[str]) -> None:
        self.path, self.names = path, names
        self.found: dict[str, tuple[int, int | str]] = {}
        opened(names[0])
        if "*" not in names[0]:
            asked(names[0], "info")

    def files(self, *suffixes: str) -> dict[str, tuple[int, int | str]]:
        """{file: (bytes, tag)} in order of their names; of folders those with a suffix.

        A tag changes with what the file holds; '' of a server that tells nothing of the kind. Raises UserError without
        a file.
        """
        if not self.found:
            told = self._look_up(suffixes)
            self.found = {file: (_size(file, told[file]), _tag(told[file])) for file in sorted(told)}
        return self.found

    def _look_up(self, suffixes: tuple[str, ...]) -> Told:
        opened(self.names[0])[0].invalidate_cache()
        told = _told(self.names[0], suffixes)  # a mistake in all names ends with the first
        progress = Progress(f"looking through {self.path}:", "files")
        for found in threads().map(lambda name: _told(name, suffixes), self.names[1:]):
            told |= found
            progress(len(told))
        bare = [file for file, each in told.items() if each.get("size") is None]  # where a page of links is a folder
        return told | dict(zip(bare, threads().map(lambda file: asked(file, "info"), bare), strict=True))


def _told(name: str, suffixes: tuple[str, ...]) -> Told:
    """Of the files that a name stands for."""
    if "*" in name:
        root, method = name.partition("*")[0].rpartition("/")[0], "glob"
    else:
        told = {} if name.endswith("/") else asked(name, "info")
        if told and told["type"] != "directory":
            return {name: told}
        root, method = name.rstrip("/"), "find"
    start, found = len(opened(root)[1]), asked(name, method, limited=False, detail=True)  # a million take long
    files = {root + file[start:]: told for file, told in found.items() if told["type"] != "directory"}
    files = {file: told for file, told in files.items() if method == "glob" or file.lower().endswith(suffixes)}
    if not files:
        lack = "nothing is called so" if method == "glob" else f"no {suffixes[0]} file in this folder"
        raise UserError(f"data.source.path={name}: {lack}; give the path of your data")
    return files


def _size(file: str, told: dict[str, Any]) -> int:
    if told.get("size") is None:
        raise UserError(f"{file}: its server does not tell its size; copy it to a disk or another store")
    return int(told["size"])


def _tag(told: dict[str, Any]) -> str:
    return next((str(told[tag]) for tag in _TAGS if told.get(tag)), "")
