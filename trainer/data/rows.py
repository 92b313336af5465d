"""The images of a cache, or what a tokenizer made of them, read from their file one by one."""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from trainer.errors import UserError


class Rows:
    """(N, ...) array-like over a .npy file; an index, slice or array of indices reads just those rows: images as
    (H, W, 3) uint8, codes or latents of them.

    Not by a memory map: where another process cuts the file short under it, the kernel kills the reader with SIGBUS,
    without a word. Here that is a UserError. It costs about a microsecond an image more.
    Raises ValueError where the file is none of these or does not have all its images.
    """

    def __init__(self, file: Path, dtype: Any = np.uint8, ndim: int = 4) -> None:
        with open(file, "rb") as stream:
            version = np.lib.format.read_magic(stream)
            if version != (1, 0):
                raise ValueError(f"{file.name} is of version {version} of its format")
            self.shape, fortran, self.dtype = np.lib.format.read_array_header_1_0(stream)
            self._start = stream.tell()
            self._handle = os.dup(stream.fileno())  # it outlives a removal of the file
        weakref.finalize(self, os.close, self._handle)
        self.file = file
        self.row_bytes = int(np.prod(self.shape[1:])) * self.dtype.itemsize
        if len(self.shape) != ndim or fortran or self.dtype != dtype:
            raise ValueError(f"{file.name} has an array {self.shape} of {self.dtype}")
        if os.fstat(self._handle).st_size < self._start + len(self) * self.row_bytes:
            raise ValueError(f"{file.name} has been cut short")

    def __len__(self) -> int:
        return self.shape[0]

    def __reduce__(self) -> tuple[Any, ...]:
        return Rows, (self.file, self.dtype, len(self.shape))

    def __getitem__(self, index: Any) -> np.ndarray:
        numbers = np.arange(len(self))[index] if isinstance(index, slice) else np.asarray(index)
        images = np.empty((*numbers.shape, *self.shape[1:]), self.dtype)
        room = images.reshape(-1).view(np.uint8).data
        if isinstance(index, slice) and index.step in (None, 1) and len(room):
            self._read(int(numbers[0]), room)  # neighbours at once
            return images
        for place, number in enumerate(numbers.reshape(-1).tolist()):
            self._read(number, room[place * self.row_bytes : (place + 1) * self.row_bytes])
        return images

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or self.dtype, copy=False)

    def _read(self, number: int, room: memoryview) -> None:
        if not 0 <= number < len(self):
            raise IndexError(f"image {number} of {len(self)}")
        at = self._start + number * self.row_bytes
        while len(room):
            try:
                count = os.preadv(self._handle, [room], at)
            except OSError as error:
                raise damaged(self.file.parent, f"{self.file.name}: {error.strerror}") from error
            if not count:
                raise damaged(self.file.parent, f"{self.file.name} has been cut short")
            room, at = room[count:], at + count


def damaged(where: Path, why: str) -> UserError:
    kind = "file" if where.is_file() else "folder"
    return UserError(f"{where}: damaged cache ({why}); delete this {kind}, it is built anew")
