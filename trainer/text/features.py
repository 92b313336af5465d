"""Features of a list of captions, read from memory-mapped files as a training step asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer.batch import Condition

FLOAT16_MAX = 65_504


def pad(captions: Sequence[np.ndarray], max_tokens: int, width: int) -> Condition:
    """Float16 `Condition`, zero-padded, of N captions (1 + length, D) float16: the pooled vector, then the tokens."""
    tokens = np.zeros((len(captions), max_tokens, width), np.float16)
    mask = np.zeros((len(captions), max_tokens), bool)
    pooled = np.zeros((len(captions), width), np.float16)
    for i, rows in enumerate(captions):
        pooled[i] = rows[0]
        tokens[i, : len(rows) - 1] = rows[1:]
        mask[i, : len(rows) - 1] = True
    return Condition(torch.from_numpy(tokens), torch.from_numpy(mask), torch.from_numpy(pooled))


def map_rows(shard: Path) -> np.ndarray:
    """The (R, D) float16 features of a shard, mapped read-only."""
    # a plain array over the map: every slice of np.memmap itself costs several times as much
    return np.load(shard / "rows.npy", mmap_mode="r").view(np.ndarray)


class Features:
    """`features[(N,) int array] -> Condition`: caption i owns rows start[i] to stop[i] of shards[shard[i]].

    Pickles as paths and positions, so a data loader's worker maps the same files instead of receiving their content.
    """

    def __init__(
        self,
        shards: Sequence[Path],
        located: tuple[np.ndarray, np.ndarray, np.ndarray],
        max_tokens: int,
        width: int,
    ):
        self.shards, self.max_tokens, self.width = list(shards), max_tokens, width
        self.shard, self.start, self.stop = located
        self._mapped = [map_rows(shard) for shard in shards]

    def __len__(self) -> int:
        return len(self.shard)

    def rows(self, index: np.ndarray) -> list[np.ndarray]:
        """(1 + length, D) float16 of each caption, not copied."""
        at = zip(self.shard[index].tolist(), self.start[index].tolist(), self.stop[index].tolist(), strict=True)
        return [self._mapped[shard][start:stop] for shard, start, stop in at]

    def __getitem__(self, index: np.ndarray) -> Condition:
        return pad(self.rows(index), self.max_tokens, self.width)

    def __reduce__(self) -> tuple[Any, ...]:
        located = self.shard, self.start, self.stop
        return Features, (self.shards, located, self.max_tokens, self.width)
