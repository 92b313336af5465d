"""A network on its way from the teacher to the fastest: what one pass made of it, and what is known of that."""

from __future__ import annotations

from dataclasses import dataclass, field

from trainer.compression.comparison.fresh_process import Fresh
from trainer.compression.comparison.latency import Speed
from trainer.compression.comparison.size import Size


@dataclass
class Stage:
    """What stands after a pass, by its name; the first is what all others are compared with.

    note: one line of what the pass did.
    figures: metric -> value, named as trainer.evaluate names them: fd_effnet, attributes_scene, psnr_teacher ...
    beside: not on the way, but the stage before it run in another way, without a loss.
    """

    name: str
    note: str = ""
    speed: Speed | None = None
    size: Size | None = None
    figures: dict[str, float] = field(default_factory=dict)
    fresh: Fresh | None = None
    beside: bool = False

    def figure(self, *prefixes: str) -> float | None:
        """The first figure whose name begins so, None where there is none."""
        return next((value for name, value in self.figures.items() if name.startswith(prefixes)), None)

    @property
    def distance(self) -> float | None:
        """The Fréchet distance, whichever backbone it is of."""
        return self.figure("fd_", "fid", "clean_fid")
