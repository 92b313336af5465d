"""Batches of several sizes, of `data.buckets`: generators draw at the size of the batch that they learn from."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from trainer.batch import Batch
from trainer.errors import UserError
from trainer.networks.sized import canvases, check_canvas, drawing, takes_any_size
from trainer.size import Size


class Sizes:
    """Part of an objective. any_size: whether its losses hold for batches of any size."""

    any_size = False
    canvases: list[Any] | None = None  # of a run with buckets: what draws

    def require_sizes(self: Any, sizes: list[Size]) -> None:
        """Prepares it for batches of these sizes; UserError where it, or a network that it trains, knows one alone."""
        if not self.any_size:
            raise of_one_size(f"objective {type(self).__name__}", sizes)
        for name in self.phases:
            if not takes_any_size(self.network(name)):
                raise of_one_size(f"the {name}", sizes)
        for module in self.modules():
            divisor = getattr(module, "divisor", 1)
            if any(side % divisor for size in sizes for side in size):
                given, kind = [[*size] for size in sizes], type(module)
                name = f"{kind.__module__.rpartition('.')[2]}.{kind.__name__}"
                raise UserError(f"data.buckets={given}: expected multiples of {divisor}, which {name} divides sides by")
        self.canvases = canvases(self.modules())
        for network in self.canvases:
            for size in sizes:
                check_canvas(network, size)

    def at_size_of(self, batch: Batch) -> AbstractContextManager[None]:
        """Within it generators draw pictures as large as those of the batch, whatever they were made for."""
        if self.canvases is None:
            return nullcontext()
        return drawing(Size(*batch.image.shape[2:]), self.canvases)


def of_one_size(what: str, sizes: Sequence[Sequence[int]]) -> UserError:
    return UserError(f"data.buckets={[[*size] for size in sizes]}: {what} knows one size alone; set data.buckets=null")
