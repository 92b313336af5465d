"""Small images in memory and on disk, and modules over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainer.data.augment import Augment
from trainer.data.module import DataModule
from trainer.data.source import Item
from trainer.text.scratch import HashTokenizer


def pixels(number: int, resolution: int) -> Image.Image:
    """An image that tells its number: noise, seeded by it."""
    noise = np.random.default_rng(number).integers(0, 256, (resolution, resolution, 3), np.uint8)
    return Image.fromarray(noise)


class Plain:
    """num_items noise images; item i has concept i // per_concept and num_captions captions."""

    attribution = ""

    def __init__(
        self, num_items: int = 50, num_captions: int = 1, per_concept: int = 1, heldout: Sequence[bool | None] = ()
    ) -> None:
        self.num_items, self.num_captions, self.per_concept = num_items, num_captions, per_concept
        self.heldout = heldout or [None] * num_items
        self.loads = 0

    def fingerprint(self) -> str:
        return f"{self.num_items} {self.num_captions} {self.per_concept} {self.heldout}"

    def load(self, number: int, resolution: int) -> Image.Image:
        self.loads += 1
        return pixels(number, resolution)

    def items(self) -> list[Item]:
        return [
            Item(
                key=f"item {i}",
                captions=tuple(f"caption {i} {k}" for k in range(self.num_captions)),
                concept=f"concept {i // self.per_concept}",
                load=partial(self.load, i),
                attributes={"number": i},
                heldout=self.heldout[i],
            )
            for i in range(self.num_items)
        ]


@pytest.fixture
def plain() -> type[Plain]:
    return Plain


@pytest.fixture
def module(tmp_path: Path) -> Callable[..., DataModule]:
    """module(source, ...) with small defaults and a cache of this test's own."""

    def make(source: Any = None, **changes: Any) -> DataModule:
        options = {"resolution": 8, "batch_size": 8, "heldout": 0.0, "augment": Augment(), "seed": 0}
        options |= {"cache_dir": str(tmp_path / "cache"), "text": HashTokenizer(vocabulary=1000, max_tokens=6)}
        return DataModule(source or Plain(), **(options | changes))

    return make


@pytest.fixture(name="pixels")
def pixels_of() -> Callable[[int, int], Image.Image]:
    return pixels


@pytest.fixture
def write_image() -> Callable[..., Path]:
    def write(file: Path, number: int = 0, resolution: int = 8, **options: Any) -> Path:
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels(number, resolution).save(file, **options)
        return file

    return write
