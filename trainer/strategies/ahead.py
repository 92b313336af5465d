"""Batches on their way to a GPU: the next one is copied while the networks work on this one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from lightning_fabric.utilities.apply_func import move_data_to_device
from torch import Tensor
from torch.utils._pytree import tree_leaves

from trainer.batch import Batch


class Ahead:
    """The batches of a loader, each of them `prepared` on the host and then sent to the device.

    Lightning asks for a batch before it begins with the one before. To a GPU they are copied in a stream of their own,
    from pinned memory, so that a copy waits for no kernel and no kernel for it until `arrive` is called, which the
    strategy does as it hands a batch to the objective. Elsewhere there is nothing to overlap with.
    """

    def __init__(self, loader: Any, device: torch.device, prepared: Callable[[Batch], Batch]):
        self.loader, self.device, self.prepared = loader, device, prepared
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.sent: deque[Any] = deque()  # for each batch under way: when its copies are done

    def __getattr__(self, name: str) -> Any:
        """What Lightning asks of a loader: its workers, to end them, and its sampler."""
        return getattr(self.__dict__["loader"], name)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        batches: Iterable[Batch] = self.loader
        self.sent.clear()
        for batch in batches:
            yield self.send(self.prepared(batch))

    def send(self, batch: Batch) -> Batch:
        if self.stream is None:
            return batch
        with torch.cuda.stream(self.stream):
            batch = move_data_to_device(batch, self.device)
            self.sent.append(self.stream.record_event())
        return batch

    def arrive(self, batch: Batch) -> None:
        """Has what is computed from here on wait for the copies of the oldest batch under way, this one."""
        if self.sent:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(self.sent.popleft())
            for tensor in tensors(batch):
                tensor.record_stream(current)  # its memory is of the other stream, which must not take it back before


def tensors(batch: Batch) -> list[Tensor]:
    """All that a batch holds."""
    own = tree_leaves([batch.image, batch.condition, batch.caption, batch.position, batch.encoded])
    return [each for each in own if each is not None] + (tensors(batch.other) if batch.other else [])
