"""A rank that dies, freezes or is stuck ends the others, with its name."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import torch.distributed as dist
from pytorch_lightning import Callback, Trainer

from trainer.callbacks.guard import newest_checkpoint
from trainer.errors import UserError
from trainer.process import progress
from trainer.process.ranks import launcher_size
from trainer.report import ending
from trainer.strategies.together import hosts, leave
from trainer.strategies.watch import BEAT, GRACE, Watch

GOODBYE = 10.0  # seconds that loggers have for their last words


class Heartbeat(Callback):
    """Ends all ranks, exit code 1, when one is silent for `limit_seconds`; about 6 s after a collective failed.

    Also when no rank has done anything for `progress_seconds`: no step, no image decoded, measured or drawn. The line
    that each prints names the rank, its host, and the checkpoint to go on from; of a run that is stuck the stacks of
    all ranks are in RUN/stacks. A rank that is busy or waits is never taken for dead (`trainer.strategies.watch`).
    Watches from the rendezvous on, through preparation and training, until the loggers are closed.
    """

    def __init__(self, limit_seconds: float = 60, progress_seconds: float = 1800) -> None:
        if limit_seconds <= GRACE * BEAT:
            raise UserError(f"callbacks.heartbeat.limit_seconds={limit_seconds}: expected more than {GRACE * BEAT:.0f}")
        if progress_seconds <= 0:
            raise UserError(f"callbacks.heartbeat.progress_seconds={progress_seconds}: expected more than 0")
        self.limit_seconds, self.progress_seconds = limit_seconds, progress_seconds
        self._watch: Watch | None = None
        self._children: list[Any] = []
        self._parent = 0  # pid of rank 0 where that started this one
        self._run = ""
        self._loggers: list[Any] = []

    def on_rendezvous(self, trainer: Trainer) -> None:
        """Of our strategies: all ranks are there, and nothing is prepared yet."""
        rank, self._run = trainer.global_rank, trainer.default_root_dir
        self._loggers = trainer.loggers
        strategy: Any = trainer.strategy
        self._children = strategy.children
        if launcher_size() is None:  # Lightning has started the others from rank 0
            self._parent = rank and os.getppid()
        store: Any = dist.distributed_c10d._get_default_store()
        limits = self.limit_seconds, self.progress_seconds
        # a connection of its own never waits for its turn
        self._watch = Watch(
            store.clone(), rank, hosts(trainer.world_size), *limits, Path(self._run, "stacks"), self._end
        )
        self._watch.start()

    def on_train_batch_end(self, trainer: Trainer, objective: Any, *_: Any) -> None:
        progress.tick()

    def teardown(self, trainer: Trainer, objective: Any, stage: str) -> None:
        if self._watch and not self._watch.word:
            self._watch.finish()

    def on_exception(self, trainer: Trainer, objective: Any, exception: BaseException) -> None:
        if self._watch is not None:
            leave(self._watch, exception)

    def _end(self, verdict: str) -> None:
        watch = self._watch
        assert watch is not None
        last = newest_checkpoint(self._run)
        remedy = f"the last checkpoint is {last}; resume={self._run}" if last else "there is no checkpoint yet"
        who = f"rank {watch.rank}: " if watch.rank else ""
        time.sleep(BEAT)  # srun loses what is written while it deals with the death of the other task
        os.write(2, f"{who}{verdict}: stopping; {remedy}\n".encode())
        time.sleep(BEAT / 2)
        for child in self._children:
            child.kill()
        if watch.rank == 0:
            ending.record_failure(Path(self._run), verdict)
            messenger = threading.Thread(target=self._alert, args=(verdict,), daemon=True)
            messenger.start()
            messenger.join(GOODBYE)
        if self._parent:
            time.sleep(2 * BEAT)  # it comes to the same verdict, unless it is the one that is frozen
            if os.getppid() == self._parent:
                os.kill(self._parent, signal.SIGKILL)
        os._exit(1)  # the main thread may hang in a collective for good

    def _alert(self, verdict: str) -> None:
        for logger in self._loggers:
            if hasattr(logger, "alert"):
                logger.alert("Failed", verdict, "ERROR")
                logger.finalize("failed")
