"""Messages for a run's owner: what should not wait until somebody looks."""

from __future__ import annotations

import math
import signal
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, Trainer

from trainer.callbacks.checkpoint import BEST, beats
from trainer.callbacks.schedule import last
from trainer.errors import DivergedError, UserError
from trainer.process.progress import say


class Alerts(Callback):
    """To loggers that take messages, from rank 0, each once:

    - the run has left the numbers, or fails in another way
    - `metric` is `factor` times worse than its best so far; once in a run, restarts included, and on stderr, too
    - a signal stops the run: preemption, a time limit, Ctrl-C

    Stands before `Checkpoint`, which keeps what was said, and behind whatever measures.
    """

    def __init__(self, metric: str = "val/fd_effnet", factor: float = 1.5, better: str = "lower") -> None:
        if factor <= 1:
            raise UserError(f"callbacks.alerts.factor={factor}: expected more than 1")
        self.metric = metric
        self.factor = factor
        self.better = better
        self._best: float | None = None
        self._warned = False

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best, "warned": self._warned}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._best, self._warned = state_dict["best"], state_dict["warned"]

    def on_train_start(self, trainer: Trainer, objective: Any) -> None:
        self.on_train_batch_end(trainer, objective)  # a measurement that was broken off has been made up for

    def on_train_batch_end(self, trainer: Trainer, objective: Any, *_: Any) -> None:
        measured = trainer.callback_metrics.get(self.metric)
        if measured is None:
            return
        value = float(measured)
        if not math.isfinite(value):
            return
        if self._best is None or beats(value, self._best, self.better):
            self._best = value
        slack = abs(self._best) * (self.factor - 1 if self.better == "lower" else 1 / self.factor - 1)
        if beats(self._best + slack, value, self.better) and not self._warned:
            self._warned = True
            text = f"{self.metric} is {value:.4g} at kimg {objective.images_seen / 1000:.1f}, the best was"
            send(trainer, "Worse again", f"{text} {self._best:.4g}", "WARN")
            best = Path(trainer.default_root_dir, "checkpoints", BEST)
            if trainer.is_global_zero:
                remedy = f"; init={best} begins a run from that one, with a lower lr" if best.exists() else ""
                say(f"worse again: {text} {self._best:.4g}{remedy}")

    def on_train_end(self, trainer: Trainer, objective: Any) -> None:
        number = max((getattr(callback, "signal", 0) for callback in trainer.callbacks), default=0)  # type: ignore[attr-defined]
        if number and not last(trainer):  # the ranks have agreed on it
            name = signal.Signals(number).name
            text = f"{name} at kimg {objective.images_seen / 1000:.1f}; everything is saved"
            send(trainer, "Stopped", f"{text}, go on with resume={trainer.default_root_dir}", "WARN")

    def on_exception(self, trainer: Trainer, objective: Any, exception: BaseException) -> None:
        if isinstance(exception, (KeyboardInterrupt, SystemExit)):  # whoever aborts knows
            return
        title = "Diverged" if isinstance(exception, DivergedError) else "Failed"
        send(trainer, title, f"{type(exception).__name__}: {exception}", "ERROR")


def send(trainer: Trainer, title: str, text: str, level: str) -> None:
    """level: INFO, WARN or ERROR."""
    for logger in trainer.loggers:
        if hasattr(logger, "alert"):
            logger.alert(title, text, level)
