"""Pictures read from where they lie, 16 bytes each: decoded, cropped and resized as they are asked for."""

from __future__ import annotations

import io
import math
import os
import weakref
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import get_worker_info

from trainer.data.build import CENTRE, CORRUPT, fit
from trainer.data.files import MAX_PIXELS, open_image
from trainer.data.jpeg import decoded
from trainer.data.remote import Range, is_remote, read_all
from trainer.data.texts import Texts, mapped
from trainer.errors import UserError
from trainer.size import Resolution, Size

PLACE = np.dtype([("file", "<u4"), ("size", "<u4"), ("offset", "<u8")])
KEPT = 1 << 31  # file numbers from here on: bytes that lie in no file of the source as they are, kept in the index
_OPEN = 128  # files at a time; macOS grants a process 256


class Placed:
    """(N, H, W, 3) uint8 array-like; an index, slice or array of indices decodes just those images, bit for bit as a
    cache of decoded ones has them.

    folder, prefix: of the index, as `Plane` writes it. base: the folder that the files of the source are named from.
    Raises UserError where a file is not there, or is another than when it was indexed.
    """

    def __init__(self, folder: Path, prefix: str, base: str, resolution: Resolution) -> None:
        self.places = mapped(folder / f"{prefix}places.npy")
        if self.places.dtype != PLACE:
            raise ValueError(f"{prefix}places.npy has an array of {self.places.dtype}")
        self.files = Texts(folder, f"{prefix}files")
        self.folder, self.prefix, self.base, self.size = folder, prefix, base, Size.of(resolution)
        self.shape: tuple[int, ...] = (len(self.places), *self.size, 3)
        self.dtype = np.dtype(np.uint8)
        self._handles: OrderedDict[int, int] = OrderedDict()
        weakref.finalize(self, _close, self._handles)

    def __len__(self) -> int:
        return len(self.places)

    def __reduce__(self) -> tuple[Any, ...]:
        return Placed, (self.folder, self.prefix, self.base, self.size)

    def __getitem__(self, index: Any) -> np.ndarray:
        return self.parts(index, None)

    def parts(self, index: Any, parts: np.ndarray | None) -> np.ndarray:
        """As an index does, of other parts than that in the centre: (..., 3), each as of `fit`."""
        numbers = np.arange(len(self))[index] if isinstance(index, slice) else np.asarray(index)
        flat = numbers.reshape(-1)
        images = np.empty((len(flat), *self.shape[1:]), np.uint8)
        contents: list[Any] = [None] * len(flat)
        wanted = self.places[flat]
        far = np.flatnonzero((wanted["file"] < KEPT) & is_remote(self.base)).tolist()
        for place, content in zip(far, read_all([self._range(int(flat[place])) for place in far]), strict=True):
            contents[place] = content
        for place in np.lexsort((wanted["offset"], wanted["file"])).tolist():  # as the disk has them
            if contents[place] is None:
                contents[place] = self.content(int(flat[place]))
        wanted_parts = [CENTRE] * len(flat) if parts is None else parts.reshape(-1, 3).tolist()
        for place, pixels in enumerate(_threads(self._decode, flat.tolist(), contents, wanted_parts)):
            images[place] = pixels
        return images.reshape(*numbers.shape, *self.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or self.dtype, copy=False)

    def where(self, number: int) -> str:
        """The file of a picture."""
        file = int(self.places["file"][number])
        if file >= KEPT:
            return str(self.folder / f"{self.prefix}kept-{file - KEPT}.bin")
        return os.path.join(self.base, self.files[file])

    def _range(self, number: int) -> Range:
        _, size, offset = self.places[number].item()
        return self.where(number), offset, offset + size

    def content(self, number: int) -> bytes:
        """The encoded bytes of a picture on a disk."""
        file, size, offset = self.places[number].item()
        try:
            handle = self._handles.pop(file, None)
            handle = os.open(self.where(number), os.O_RDONLY) if handle is None else handle
            self._handles[file] = handle
            if len(self._handles) > _OPEN:
                os.close(self._handles.popitem(last=False)[1])
            content = os.pread(handle, size, offset)
            while 0 < len(content) < size and (more := os.pread(handle, size - len(content), offset + len(content))):
                content += more
        except OSError as error:
            remedy = "data that moved are found by data.source.path="
            raise UserError(f"{self.where(number)}: {error.strerror}, as of image {number}; {remedy}") from error
        return content

    def _decode(self, number: int, content: bytes, part: tuple[float, float, float]) -> np.ndarray:
        try:
            whole = [math.ceil(side / part[0]) for side in self.size]  # at which the part has the resolution
            pixels = decoded(content, whole, MAX_PIXELS)
            if pixels is not None and pixels.shape[:2] == self.size and part[0] == 1:
                return pixels
            image = open_image(io.BytesIO(content), whole) if pixels is None else Image.fromarray(pixels)
            return np.asarray(fit(image, self.size, part))
        except CORRUPT as error:
            was = f"{self.where(number)}: what was image {number} is no picture any more ({error})"
            raise UserError(f"{was}; put the file back, or delete {self.folder}, which is made anew") from error


def _close(handles: dict[int, int]) -> None:
    for handle in handles.values():
        os.close(handle)


def _threads(function: Any, *arguments: list[Any]) -> Any:
    """`map`, by several threads, except in a worker, which is one of several processes."""
    if get_worker_info() is not None or len(arguments[0]) < 8:
        return map(function, *arguments)
    return _pool(os.getpid()).map(function, *arguments)


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """process: its id, as a fork has none of the threads."""
    return ThreadPoolExecutor(min(8, os.cpu_count() or 1))
