"""Millions of texts as one file of UTF-8, mapped, beside where each begins: none is parsed before it is asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, overload

import numpy as np


def mapped(file: Path) -> np.ndarray:
    """A .npy file, read as it is asked for, by all processes of a machine from the same memory."""
    return np.asarray(np.load(file, mmap_mode="r"))


class Texts(Sequence[str]):
    """The texts that `write_texts` has written: `texts[i]`, a slice, or one after the other.

    Raises ValueError where the file does not have all of them.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.starts = mapped(folder / f"{name}_starts.npy")
        self.file = folder / f"{name}.utf8"
        size = self.file.stat().st_size
        if size != self.starts[-1]:
            raise ValueError(f"{self.file.name} has been cut short")
        self._content = np.asarray(np.memmap(self.file, np.uint8, "r")) if size else np.empty(0, np.uint8)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __reduce__(self) -> tuple[Any, ...]:
        return Texts, (self.folder, self.name)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"text {index} of {len(self)}")
        return self.content(int(index) % len(self)).decode(errors="surrogatepass")

    def content(self, first: int, last: int | None = None) -> bytes:
        """Of text `first`, or of those before `last`, as they stand in the file."""
        stop = first + 1 if last is None else last
        return self._content[int(self.starts[first]) : int(self.starts[stop])].tobytes()

    def sha256(self) -> str:
        """Of all texts, and of where each begins."""
        content = hashlib.sha256(self.starts.data)
        for begin in range(0, len(self._content), 1 << 24):
            content.update(self._content[begin : begin + (1 << 24)].data)
        return content.hexdigest()

    def __iter__(self) -> Iterator[str]:
        for begin in range(0, len(self), 65_536):
            end = min(begin + 65_536, len(self))
            content, starts = self.content(begin, end), (self.starts[begin : end + 1] - self.starts[begin]).tolist()
            for start, stop in pairwise(starts):
                yield content[start:stop].decode(errors="surrogatepass")


def write_texts(folder: Path, name: str, texts: Iterable[str]) -> None:
    sizes = [0]
    with open(folder / f"{name}.utf8", "wb") as file:
        for text in texts:
            sizes.append(file.write(text.encode(errors="surrogatepass")))
    np.save(folder / f"{name}_starts.npy", np.cumsum(sizes, dtype=np.int64))
