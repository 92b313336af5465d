"""Height and width of pictures and maps: data.resolution=64 is a square, [64, 96] has 64 rows and 96 columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from trainer.errors import UserError

Resolution: TypeAlias = int | Sequence[int]  # as configurations have it


class Size(NamedTuple):
    """Rows and columns. As text it is 64 of a square, else 64x96."""

    height: int
    width: int

    @classmethod
    def of(cls, resolution: Resolution) -> Size:
        """Of the side of a square, or of height and width."""
        sides: Any = (resolution, resolution) if isinstance(resolution, int) else resolution
        if not isinstance(sides, Sequence) or len(sides) != 2 or not all(isinstance(side, int) for side in sides):
            expected = "expected a number of pixels, or two as [64,96], height and width"
            raise UserError(f"resolution={resolution}: {expected}")
        return cls(*sides)

    @property
    def resolution(self) -> int | list[int]:
        """As configurations have it."""
        return self.height if self.height == self.width else [*self]

    def over(self, factor: int) -> Size:
        """With sides so many times shorter, rounded down."""
        return Size(self.height // factor, self.width // factor)

    def __str__(self) -> str:
        return "x".join(map(str, dict.fromkeys(self)))
