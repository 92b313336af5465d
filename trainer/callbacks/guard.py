"""Stops a run that has left the numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from pytorch_lightning import Trainer

from trainer.errors import DivergedError
from trainer.runs import checkpoint_files


def newest_checkpoint(run_dir: str | Path) -> Path | None:
    """The checkpoint of a run folder with the most images seen; files appear there only when they are complete."""
    return checkpoint_files.newest(Path(run_dir, "checkpoints"))


def check_gradients(trainer: Trainer) -> None:
    """Raises DivergedError where a network is held back: which, and since when. Waits for the device."""
    objective: Any = trainer.lightning_module
    holds = getattr(trainer.strategy, "holds", [])
    ages = torch.stack([hold.age for hold in holds]).tolist() if holds else []
    for name, age in zip(objective.phases, ages, strict=False):
        if age:
            step = trainer.global_step - int(age) + 1
            kimg = objective.images_seen / 1000 * step / trainer.global_step
            diverged(trainer, f"the gradient of {name} is too large or not a number in step {step}, kimg {kimg:.1f}")


def check_finite(trainer: Trainer, metrics: Mapping[str, float]) -> None:
    """Raises DivergedError: the first metric that is NaN or infinite, when, and the checkpoint to go back to."""
    for key, value in metrics.items():
        if not math.isfinite(value):
            objective: Any = trainer.lightning_module
            diverged(trainer, f"{key} is {value} at kimg {objective.images_seen / 1000:.1f}")


def diverged(trainer: Trainer, what: str) -> NoReturn:
    good = newest_checkpoint(trainer.default_root_dir)
    remedy = f"resume={good} with" if good else "start again with"
    raise DivergedError(f"{what}: {remedy} a lower learning rate, objective.clip=1 or trainer.precision=32-true")


def check_weights(trainer: Trainer) -> None:
    """Raises DivergedError where a trained weight is not finite, or could be: no such checkpoint is ever written."""
    check_gradients(trainer)
    strategy: Any = trainer.strategy
    for name, network in trainer.lightning_module.named_children():
        weights = [strategy.part(p).tensor for p in network.parameters()]
        weights = [held for held in weights if held.numel()]  # of a split one, a rank may keep nothing
        norms = torch._foreach_norm(weights) if weights else [torch.zeros((), device=strategy.root_device)]
        total = torch.stack(norms).norm().to(strategy.root_device)
        total = strategy.reduce(total, reduce_op="sum")  # inf or NaN where one is, on any rank
        check_finite(trainer, {f"{name} weight norm": total.item()})
