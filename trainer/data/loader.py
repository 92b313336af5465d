"""A loader whose workers outlive a signal, so that the process that trains can save, and tell a mistake in one line."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from trainer.batch import Batch, Condition
from trainer.errors import UserError
from trainer.process.signals import STOPPING


class Loader(DataLoader[Batch]):
    """A signal to a whole process group or job (Ctrl-C, `timeout`, scancel, preemption) is the main process's affair.

    PyTorch's workers die of the SIGTERM in it, and the main process then of their death. Here they end when their
    parent ends them, or is gone.
    """

    def __init__(self, stream: Any, num_workers: int, **options: Any) -> None:
        pack: Any = Packed if num_workers else None
        super().__init__(stream, worker_init_fn=obey_parent, num_workers=num_workers, collate_fn=pack, **options)

    def __iter__(self) -> Any:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)  # workers that start now inherit it
        try:
            return unpacked(raise_worker_errors(super().__iter__()))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Packed:
    """A batch in one block of memory, as it comes from a worker: there each tensor alone costs half a millisecond."""

    def __init__(self, batch: Batch) -> None:
        tensors = [each if each is None else _dense(each) for each in _tensors(batch)]
        self.layout: list[tuple[int, torch.dtype, torch.Size, tuple[int, ...]] | None] = []
        end = 0
        for each in tensors:
            self.layout.append(None if each is None else (end, each.dtype, each.shape, each.stride()))
            end += 0 if each is None else -(-each.nbytes // _ALIGNED) * _ALIGNED
        shared = torch.UntypedStorage._new_shared(end, device="cpu")  # as torch's own batches: sent without a copy
        self.block = torch.empty(0, dtype=torch.uint8).set_(shared)
        for mine, each in zip(self._views(), tensors, strict=True):
            if mine is not None and each is not None:
                mine.copy_(each)

    def pin_memory(self) -> Packed:
        self.block = self.block.pin_memory()
        return self

    def batch(self) -> Batch:
        """The same batch, within the block."""
        return _batch(self._views())

    def _views(self) -> list[Tensor | None]:
        found: list[Tensor | None] = []
        for place in self.layout:
            if place is None:
                found.append(None)
                continue
            start, dtype, shape, stride = place
            values = self.block[start : start + shape.numel() * dtype.itemsize].view(dtype)
            found.append(values.as_strided(shape, stride, values.storage_offset()))
        return found


_ALIGNED = 64  # bytes


def _tensors(batch: Batch) -> list[Tensor | None]:
    condition = [*batch.condition]
    own = [batch.image, *condition, batch.caption, batch.position, batch.encoded]
    return own if batch.other is None else own + _tensors(batch.other)


def _batch(tensors: list[Tensor | None]) -> Batch:
    count = len(Condition._fields)
    given: list[Any] = tensors[: count + 4]
    other = _batch(tensors[count + 4 :]) if len(tensors) > count + 4 else None
    caption, position, encoded = given[count + 1 :]
    return Batch(given[0], Condition(*given[1 : count + 1]), caption, position, encoded, other)


def _dense(tensor: Tensor) -> Tensor:
    """Without gaps, images channels last as they are."""
    is_dense = tensor.is_contiguous() or (tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last))
    return tensor if is_dense else tensor.contiguous()


def unpacked(batches: Iterator[Any]) -> Iterator[Batch]:
    for each in batches:
        yield each.batch() if isinstance(each, Packed) else each


def raise_worker_errors(batches: Iterator[Any]) -> Iterator[Any]:
    """The batches; a UserError of a worker as it was raised there, of which PyTorch makes a traceback."""
    try:
        yield from batches
    except UserError as error:
        kind = type(error)
        raise kind(str(error).rpartition(f"{kind.__name__}: ")[2].strip()) from None


def obey_parent(worker: int) -> None:
    """In a worker: the blocked signals are taken by a thread, which minds those of the parent alone."""
    if not hasattr(signal, "sigwaitinfo"):  # macOS does not tell who sent a signal
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        return
    parent = os.getppid()

    def mind() -> None:
        while signal.sigwaitinfo(STOPPING).si_pid != parent:
            pass
        os._exit(0)

    threading.Thread(target=mind, daemon=True, name="signals").start()
