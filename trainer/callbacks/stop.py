"""Ctrl-C and SIGTERM end a run at the end of a batch, with everything saved."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer


class Stop(Callback):
    """The first SIGINT or SIGTERM finishes the batch, lets `Checkpoint` save and stops all ranks; the second aborts.

    `signal` is then the number of the signal, and the process should end with 128 + signal, as a shell would say it
    (130 for Ctrl-C), so that a script can tell a finished run from an interrupted one. Stands before `Checkpoint`.
    """

    def __init__(self, every_steps: int = 10) -> None:
        self.every_steps = every_steps  # how often several ranks compare notes
        self.signal = 0
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, objective: Any) -> None:
        # Lightning's own handlers, registered before this, would raise in the middle of a step.
        self._previous = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal:
            self._restore()
            raise KeyboardInterrupt
        self.signal = number
        print(
            f"{signal.Signals(number).name}: finishing the batch and saving; once more to abort",
            file=sys.stderr,
            flush=True,
        )

    def on_train_batch_end(self, trainer: Trainer, objective: Any, *_: Any) -> None:
        if trainer.world_size > 1:
            if trainer.global_step % self.every_steps:
                return
            flag = torch.tensor(float(self.signal), device=trainer.strategy.root_device)
            self.signal = int(trainer.strategy.reduce(flag, reduce_op="max").item())
        if self.signal:
            trainer.should_stop = True

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def on_train_end(self, trainer: Trainer, objective: Any) -> None:
        self._restore()

    def on_exception(self, trainer: Trainer, objective: Any, exception: BaseException) -> None:
        self._restore()
