"""What a training step works on: images, their text condition, and where in the stream they stand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Condition(NamedTuple):
    """Text features of N captions; a tuple, so that libraries find the tensors in what a module takes and returns.

    tokens: (N, L, D) float word-level features; (N, L) int64 token ids where the text encoder trains with the model.
    Features are float16 as they are stored and loaded, float32 in a step and for sampling.
    mask: (N, L) bool, True where there is a token.
    pooled: (N, D) float, one vector a caption; (N, 0) beside token ids.
    source: (N, C, h, w) float in [-1, 1], what an image task starts from (`trainer.tasks`); None of text to image.
    """

    tokens: Tensor
    mask: Tensor
    pooled: Tensor
    source: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> Condition:
        """With each tensor that it has changed."""
        parts: list[Any] = [None if part is None else change(part) for part in self]
        return Condition(*parts)

    def rows(self, index: Any) -> Condition:
        """Those of some of the captions."""
        return self.map(lambda part: part[index])

    @property
    def longest(self) -> int:
        """Tokens of the longest caption; L where there are none."""
        mask = self.mask.cpu().numpy()
        held = mask[0] if len(mask) == 1 else mask.any(0)
        return held.tobytes().rfind(b"\1") + 1 or self.mask.shape[1]  # of so few bytes Python knows it soonest

    def cut(self, length: int) -> Condition:
        """With the first `length` tokens of each caption."""
        if length >= self.mask.shape[1]:
            return self
        return self._replace(tokens=self.tokens[:, :length], mask=self.mask[:, :length])

    def to(self, *args: Any, **kwargs: Any) -> Condition:
        return self.map(lambda part: part.to(*args, **kwargs))

    def float(self) -> Condition:
        """The same with features as float32; ids stay."""
        return self.map(lambda part: part.float() if part.is_floating_point() else part)

    @staticmethod
    def cat(conditions: Iterable[Condition]) -> Condition:
        """One of all their captions; a single one is itself."""
        parts = [*conditions]
        if len(parts) == 1:
            return parts[0]
        fields: list[Any] = [None if each[0] is None else torch.cat(each) for each in zip(*parts, strict=True)]
        return Condition(*fields)


@dataclass
class Batch:
    """N training samples of one rank.

    image: (N, 3, H, W), uint8 as loaded (channels last in memory), float in [-1, 1] in a training step.
    condition: text features of each image's caption.
    caption: (N,) int64, number of the caption; equal numbers mean equal captions.
    position: (N,) int64, absolute position of the sample in the endless training stream; all randomness hangs on it.
    encoded: codes (N, h, w) or latents (N, C, h, w) of the images, where a tokenizer's are kept beside the data: whole
    numbers, or float16 as loaded; int64, or float32 in a training step. `image` is (N, 3, 0, 0) then.
    other: of translations, N samples of the other domain at the same positions, with captions of their own.
    """

    image: Tensor
    condition: Condition
    caption: Tensor
    position: Tensor
    encoded: Tensor | None = None
    other: Batch | None = None

    def __len__(self) -> int:
        return len(self.position)

    def __getitem__(self, index: Any) -> Batch:
        encoded = None if self.encoded is None else self.encoded[index]
        other = None if self.other is None else self.other[index]
        condition = self.condition.rows(index)
        return Batch(self.image[index], condition, self.caption[index], self.position[index], encoded, other)

    def as_float(self) -> Batch:
        """The same batch with uint8 [0, 255] images as float [-1, 1], and features as float32."""
        image = self.image if self.image.is_floating_point() else self.image.float().div_(127.5).sub_(1)
        encoded = self.encoded
        if encoded is not None:
            encoded = encoded.float() if encoded.is_floating_point() else encoded.long()
        other = None if self.other is None else self.other.as_float()
        return Batch(image, self.condition.float(), self.caption, self.position, encoded, other)

    def pin_memory(self) -> Batch:
        """The same in memory from which a GPU copies while the host goes on; a DataLoader asks for it."""
        condition = self.condition.map(Tensor.pin_memory)
        encoded = None if self.encoded is None else self.encoded.pin_memory()
        other = None if self.other is None else self.other.pin_memory()
        image, caption, position = self.image.pin_memory(), self.caption.pin_memory(), self.position.pin_memory()
        return Batch(image, condition, caption, position, encoded, other)

    def neighbour(self) -> Tensor:
        """(N,) index that swaps samples 2k and 2k+1: mismatched captions that do not depend on how a batch is split."""
        index = torch.arange(len(self), device=self.position.device)
        return torch.where(index % 2 == 0, index + 1, index - 1).clamp_(max=len(self) - 1)
