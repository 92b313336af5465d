"""A signal ends a run at the end of a batch, with everything saved."""

from __future__ import annotations

import time
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer

from trainer.process import signals


class Stop(Callback):
    """The first of `signals.STOPPING` on any rank finishes the batch, lets `Checkpoint` save, and stops all ranks.

    `signal` is then the number of the signal, and the process should end with 128 + signal, as a shell would say it
    (130 for Ctrl-C), so that a script can tell a finished run from an interrupted one. A second SIGINT aborts.
    Several ranks compare notes after the first batch, then about every `every_seconds`, and never less than once a
    batch where a batch takes longer. A measurement that a signal breaks off is made up for by the run that goes on.
    Stands before `Checkpoint`, behind whatever measures.
    """

    def __init__(self, every_seconds: float = 1.0) -> None:
        self.every_seconds = every_seconds
        self.signal = 0
        self._next_step = self._last_step = 0
        self._last_time = 0.0
        self._previous: dict[int, Any] = {}

    def setup(self, trainer: Trainer, objective: Any, stage: str) -> None:
        self._previous = signals.arm()
        signals.begin()  # measuring references, say, before the first step
        # Lightning's own handlers would broadcast in the middle of whatever is running, and requeue by themselves.
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]

    def on_train_start(self, trainer: Trainer, objective: Any) -> None:
        self._last_step, self._last_time = trainer.global_step, time.monotonic()
        self._next_step = trainer.global_step + 1
        signals.defer()

    def on_train_batch_end(self, trainer: Trainer, objective: Any, *_: Any) -> None:
        step = trainer.global_step
        broken_off = any(getattr(callback, "broken_off", False) for callback in trainer.callbacks)  # type: ignore[attr-defined]
        if trainer.world_size == 1:
            self.signal = signals.received
        elif step >= self._next_step or broken_off:  # which all ranks know
            now = time.monotonic()
            seconds_a_step = (now - self._last_time) / (step - self._last_step)
            notes = torch.tensor([float(signals.received), seconds_a_step], device=trainer.strategy.root_device)
            received, slowest = trainer.strategy.reduce(notes, reduce_op="max").tolist()
            self.signal = int(received)
            self._last_step, self._last_time = step, now
            self._next_step = step + max(1, int(self.every_seconds / slowest))
        if self.signal:
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, objective: Any) -> None:
        if self.signal:
            trainer.strategy.barrier()  # the first rank to leave may take the others with it
        else:
            signals.complete()

    def teardown(self, trainer: Trainer, objective: Any, stage: str) -> None:
        signals.restore(self._previous)

    def on_exception(self, trainer: Trainer, objective: Any, exception: BaseException) -> None:
        signals.restore(self._previous)
