"""Metrics: means of the losses, and the one way by which every callback writes a number."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor

from trainer.callbacks.guard import check_finite, check_gradients
from trainer.callbacks.schedule import last


def record(trainer: Trainer, metrics: dict[str, float]) -> None:
    """Writes metrics to every logger beside `progress/kimg`, and leaves them in `trainer.callback_metrics`.

    Call it on every rank with equal values; only rank 0 writes.
    """
    trainer.callback_metrics.update({key: torch.tensor(value) for key, value in metrics.items()})
    objective: Any = trainer.lightning_module
    row = {**metrics, "progress/kimg": objective.images_seen / 1000}
    for logger in trainer.loggers:
        logger.log_metrics(row, step=trainer.global_step)


class Log(Callback):
    """Every `every_steps` steps: means of `objective.logs` since the last time, over all ranks; learning rates.

    A loss that is absent on some steps (a lazy penalty) is averaged over the steps that have it. The sums stay on the
    device: one transfer a report, none a step. Stops the run with a UserError where a mean is not finite, or a gradient
    was: on a CPU in that step, on a GPU with the next report, until when it changes nothing (`strategies.hold`).
    """

    def __init__(self, every_steps: int = 20) -> None:
        self.every_steps = every_steps
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def on_fit_start(self, trainer: Trainer, objective: Any) -> None:
        for logger in trainer.loggers:
            logger.log_hyperparams(objective.config)

    def on_train_batch_end(self, trainer: Trainer, objective: Any, *_: Any) -> None:
        for key, value in objective.logs.items():
            self._sums[key] = self._sums[key] + value if key in self._sums else value
            self._counts[key] = self._counts.get(key, 0) + 1
        if objective.device.type == "cpu":  # where nothing has to be waited for
            check_gradients(trainer)
        if self._sums and (trainer.global_step % self.every_steps == 0 or last(trainer)):
            means = torch.stack([total.float() / self._counts[key] for key, total in self._sums.items()])
            means = trainer.strategy.reduce(means, reduce_op="mean")
            metrics: dict[str, float] = dict(zip(self._sums, means.tolist(), strict=True))
            self._sums, self._counts = {}, {}
            for phase, optimizer in zip(objective.phases, trainer.optimizers, strict=True):
                metrics[f"{phase}/learning_rate"] = optimizer.param_groups[0]["lr"]
            record(trainer, metrics)
            check_gradients(trainer)
            check_finite(trainer, metrics)
