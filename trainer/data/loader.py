"""A loader whose workers outlive a signal, so that the process that trains can save, and tell a mistake in one line."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from trainer.batch import Batch
from trainer.errors import UserError
from trainer.process.signals import STOPPING


class Loader(DataLoader[Batch]):
    """A signal to a whole process group or job (Ctrl-C, `timeout`, scancel, preemption) is the main process's affair.

    PyTorch's workers die of the SIGTERM in it, and the main process then of their death. Here they end when their
    parent ends them, or is gone.
    """

    def __init__(self, stream: Any, **options: Any) -> None:
        super().__init__(stream, worker_init_fn=obey_parent, **options)

    def __iter__(self) -> Any:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)  # workers that start now inherit it
        try:
            return raise_worker_errors(super().__iter__())
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def raise_worker_errors(batches: Iterator[Batch]) -> Iterator[Batch]:
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
