"""In place of text: a class by its name, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from trainer import noise
from trainer.batch import Condition
from trainer.errors import UserError


class Codes:
    """`codes[(N,) int array] -> Condition` of n names, in memory: 4 D bytes each."""

    def __init__(self, rows: torch.Tensor) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Condition:
        pooled = self.rows[torch.as_tensor(index)]
        return Condition(pooled[:, None], torch.ones(len(pooled), 1, dtype=torch.bool), pooled)


class Labels:
    """A class is a caption that is its name. The condition is one token, a Gaussian code drawn from the name.

    The first layer of a network over up to D codes is an embedding of the classes, learned: the codes are independent.
    width: D. classes: their names; UserError for any other then, in the data or a prompt, but for "", which is that of
    caption dropout. None takes all that come.
    """

    grouped = False  # pictures of one class stand on both sides of the train / held-out split
    max_tokens = 1

    def __init__(self, width: int, classes: Sequence[str] | None = None) -> None:
        if width < 1:
            raise UserError(f"text.width={width}: expected at least 1")
        if classes is not None and len(classes) > width:
            raise UserError(f"text.width={width}: expected at least the number of classes, {len(classes)}")
        self.width, self.classes = width, None if classes is None else [str(each) for each in classes]

    def prepare(self, captions: Sequence[str]) -> Codes:
        if self.classes is not None and (others := sorted(set(captions) - {*self.classes, ""})):
            known = ", ".join(self.classes[:10]) + ", ..." * (len(self.classes) > 10)
            raise UserError(f"{others[0]!r:.60} is none of the {len(self.classes)} classes {known}")
        return self._codes(captions)

    def __call__(self, captions: Sequence[str]) -> Condition:
        return self.prepare(captions)[np.arange(len(captions))]

    def _codes(self, names: Sequence[str]) -> Codes:
        from trainer.text.cache import caption_keys

        keys = caption_keys(names).astype(np.uint64).view(np.int64)
        return Codes(noise.normal(0, "label", torch.from_numpy(keys.copy()), self.width))


class Nothing(Labels):
    """Every picture under the same condition, whatever its caption: an unconditional model, drawn without a prompt."""

    wordless = True

    def prepare(self, captions: Sequence[str]) -> Codes:
        return Codes(self._codes([""]).rows.expand(len(captions), -1))
