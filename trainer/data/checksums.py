"""A CRC-32 of each MiB or so of a cache's rows, written as they are and compared when the cache is opened."""

from __future__ import annotations

import zlib

import numpy as np

from trainer.data.rows import Rows

FILE = "crc32.npy"
_BLOCK = 1 << 20  # bytes, in whole rows
_COMPARED = 128 << 20  # bytes at an opening, which take a tenth of a second: smaller caches are compared whole


class Checksums:
    """Of rows that come one by one, each of `size` bytes."""

    def __init__(self, size: int) -> None:
        self.values: list[int] = []
        self._per_block, self._count = per_block(size), 0

    def add(self, row: bytes) -> None:
        if self._count % self._per_block == 0:
            self.values.append(0)
        self.values[-1] = zlib.crc32(row, self.values[-1])
        self._count += 1


def per_block(size: int) -> int:
    return max(1, _BLOCK // size)


def compare(rows: Rows, written: np.ndarray) -> None:
    """ValueError where rows are not those of the checksums `written`; of a large cache, in evenly spread blocks."""
    size = rows.row_bytes
    step = per_block(size)
    starts = range(0, len(rows), step)
    if len(starts) != len(written):
        raise ValueError(f"the checksums are not those of {rows.file.name}")
    count = min(len(starts), max(1, _COMPARED // (step * size)))
    for block in np.linspace(0, len(starts) - 1, count, dtype=np.int64).tolist():
        start = starts[block]
        if zlib.crc32(rows[start : start + step].tobytes()) != written[block]:
            stop = min(start + step, len(rows))
            raise ValueError(f"{rows.file.name} has changed since it was written, among images {start} to {stop - 1}")
