"""A rank that dies or freezes ends the others, with its name."""

from __future__ import annotations

import os
import platform
import re
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import torch.distributed as dist
from pytorch_lightning import Callback, Trainer

from trainer.callbacks.guard import newest_checkpoint
from trainer.errors import UserError
from trainer.ranks import launched
from trainer.report import ending

BEAT = 1.0  # seconds between two beats
GOODBYE = 10.0  # seconds that loggers have for their last words
GRACE = 5  # beats that a rank may miss once a collective has failed somewhere: then one is dead


class Heartbeat(Callback):
    """Ends all ranks, exit code 1, when one has been silent for `limit_seconds`; about 6 s after a collective failed.

    The line that each prints names the rank, its host, and the checkpoint to go on from. A thread beats once a second
    in the store of the process group and reads what the others left there, so a rank that is busy or waits is never
    taken for dead: only a process that is gone, frozen or cut off is silent. Rank 0 watches all, the others watch rank
    0 and the store; the first verdict holds for all. A second thread watches the first, as a frozen store never
    answers. Watches from `setup`, after the data are prepared, to the end of training.
    """

    def __init__(self, limit_seconds: float = 60) -> None:
        if limit_seconds <= GRACE * BEAT:
            raise UserError(f"callbacks.heartbeat.limit_seconds={limit_seconds}: expected more than {GRACE * BEAT:.0f}")
        self.limit_seconds = limit_seconds
        self._rank = self._beats = self._unanswered = 0
        self._word = ""  # what the others should know of this rank: "lost" in a collective, or why it ended
        self._told = threading.Event()  # the store has the word
        self._wake, self._over = threading.Event(), threading.Event()
        self._hosts: list[str] = []
        self._heard: dict[int, tuple[str, int]] = {}  # rank -> its last beat, and how often that was read again
        self._children: list[subprocess.Popen[bytes]] = []
        self._parent = 0  # pid of rank 0 where that started this one
        self._run = ""
        self._loggers: list[Any] = []

    def setup(self, trainer: Trainer, objective: Any, stage: str) -> None:
        if trainer.world_size == 1 or not dist.is_initialized():
            return
        self._rank, self._run = trainer.global_rank, trainer.default_root_dir
        self._loggers = trainer.loggers
        if launched() is None:  # Lightning has started the others from rank 0
            launcher: Any = trainer.strategy.launcher
            self._children, self._parent = list(launcher.procs), self._rank and os.getppid()
            launcher.procs.clear()  # it would kill all without a word within 5 s of the death of one
        store: Any = dist.distributed_c10d._get_default_store()
        self._store = store.clone()  # a connection of its own never waits for its turn
        self._hosts = [""] * trainer.world_size
        dist.all_gather_object(self._hosts, os.environ.get("SLURMD_NODENAME") or platform.node())
        if self._rank == 0:
            self._store.set("verdict", "")
        self._beat()
        trainer.strategy.barrier()  # from here on every key is there: reading one that is not would wait
        for target in (self._watch, self._watch_the_store):
            threading.Thread(target=target, daemon=True, name="heartbeat").start()

    def on_train_end(self, trainer: Trainer, objective: Any) -> None:
        if self._hosts:
            trainer.strategy.barrier()  # a rank that is done takes its beats, and rank 0 the store, with it
            self._over.set()

    def on_exception(self, trainer: Trainer, objective: Any, exception: BaseException) -> None:
        """Tells the others. Where a collective failed, leaves it to the verdict which rank is dead."""
        if not self._hosts or self._over.is_set():
            return
        lost = of_a_collective(exception)
        text = " ".join(str(exception).split())[:200]
        self._word = "lost" if lost else f"ended by {type(exception).__name__}{text and ': '}{text}"
        if not lost:
            self._over.set()  # this rank has its own tale to tell
        self._wake.set()
        self._told.wait(2 * BEAT)
        time.sleep((GRACE + 4 if lost else 1.5) * BEAT)  # the verdict ends the process meanwhile; others read the word
        self._over.set()

    def _beat(self) -> None:
        self._beats += 1
        self._store.set(f"beat {self._rank}", f"{self._beats}|{self._word}")

    def _watch(self) -> None:
        while not self._over.is_set() or (self._word and not self._told.is_set()):
            word = self._word
            try:
                self._beat()
                if word:
                    self._told.set()
                verdict = self._verdict()
            except RuntimeError:  # all errors of a store are
                verdict = f"{self._keeper()} is gone"
            self._unanswered = 0
            if verdict:
                self._end(verdict)
            self._wake.wait(BEAT)
            self._wake.clear()

    def _watch_the_store(self) -> None:
        while not self._over.wait(BEAT):
            self._unanswered += 1  # counted in beats of our own: a machine that slept has not missed any
            if self._unanswered * BEAT > self.limit_seconds:
                self._end(f"{self._keeper()} has not answered for {self.limit_seconds:g} s")

    def _keeper(self) -> str:
        """Who holds the store: the launcher on the first node under torchrun, else rank 0."""
        launcher = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        return f"{'the launcher of ' if launcher else ''}{self._name(0)}"

    def _name(self, rank: int) -> str:
        return f"rank {rank} (host {self._hosts[rank]})"

    def _verdict(self) -> str:
        """What the ranks agreed on, or this one finds now; '' as long as all is well."""
        peers = range(1, len(self._hosts)) if self._rank == 0 else range(1)
        values = [value.decode() for value in self._store.multi_get(["verdict", *(f"beat {peer}" for peer in peers)])]
        if values[0]:
            return values[0]
        lost = self._word == "lost" or any(value.endswith("|lost") for value in values[1:])
        for peer, value in zip(peers, values[1:], strict=True):
            last, missed = self._heard.get(peer, ("", 0))
            self._heard[peer] = value, missed + 1 if value == last else 0
            word = value.partition("|")[2]
            found = ""
            if word not in ("", "lost"):
                found = f"{self._name(peer)} was {word}"
            elif self._heard[peer][1] > (GRACE if lost else self.limit_seconds / BEAT):
                found = f"{self._name(peer)} has not answered for {self._heard[peer][1] * BEAT:.0f} s"
            if found:
                return str(self._store.compare_set("verdict", "", found).decode())
        return ""

    def _end(self, verdict: str) -> None:
        if self._over.is_set():
            return
        last = newest_checkpoint(self._run)
        remedy = f"the last checkpoint is {last}; resume={self._run}" if last else "there is no checkpoint yet"
        who = f"rank {self._rank}: " if self._rank else ""
        time.sleep(BEAT)  # srun loses what is written while it deals with the death of the other task
        os.write(2, f"{who}{verdict}: stopping; {remedy}\n".encode())
        time.sleep(BEAT / 2)
        for child in self._children:
            child.kill()
        if self._rank == 0:
            ending.failed(Path(self._run), verdict)
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


def of_a_collective(error: BaseException) -> bool:
    """Whether `error` is how a library tells of a peer that is gone."""
    words = r"gloo|nccl|(closed|reset) by peer|broken pipe|connection (was )?(closed|refused|reset)"
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and re.search(words, str(error), re.IGNORECASE) is not None
    )
