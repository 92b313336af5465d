"""Snapshots of two averages of the weights, from which one of any length is made after training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor

from trainer.callbacks.checkpoint_io import AtomicCheckpointIO
from trainer.callbacks.schedule import due
from trainer.errors import UserError
from trainer.runs.checkpoint_files import kimg_name
from trainer.runs.posthoc import LENGTHS, SNAPSHOTS, decay
from trainer.strategies.parts import Part, fill, save_parts


class PostHocEMA(Callback):
    """Keeps power-function averages of the networks named in `objective.averaged` (Karras et al. 2024, equation 121).

    average <- weights + ((t - batch) / t)^(g + 1) (average - weights), t images seen, for two lengths g. `times` in a
    run, evenly spread, they go to RUN/snapshots, in float32; 0 is never, and costs nothing.
    A rank keeps what it keeps of the weights; they are in checkpoints, so a resumed run has the same.
    """

    def __init__(self, times: int = 0) -> None:
        if times < 0:
            raise UserError(f"callbacks.posthoc.times={times}: expected 0 for none, or more")
        self.times = times
        self._parts: dict[str, Part] = {}
        self._averages: dict[str, Tensor] = {}
        self._restored: dict[str, Tensor] = {}
        self._images_seen = 0

    def on_load_checkpoint(self, trainer: Trainer, objective: Any, checkpoint: dict[str, Any]) -> None:
        self._restored = checkpoint.get("posthoc", {})

    def on_train_start(self, trainer: Trainer, objective: Any) -> None:
        if not self.times:
            return
        if objective.images_seen and not self._restored:
            raise UserError(
                f"callbacks.posthoc.times={self.times}: these averages are of a whole run, and that one was without "
                "them; set it to 0, or begin anew"
            )
        strategy: Any = trainer.strategy
        self._parts = {
            f"{name}.{key}": strategy.part(weight)
            for name in objective.averaged
            for key, weight in objective.get_submodule(name).named_parameters()
        }
        self._averages = {
            f"{length}/{key}": part.tensor.to(torch.float32, copy=True)
            for length in LENGTHS
            for key, part in self._parts.items()
        }
        for key, whole in dict(self._restored).items():
            fill(replace(self._parts[key.partition("/")[2]], tensor=self._averages[key]), whole)
        self._restored = {}
        self._images_seen = objective.images_seen

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, objective: Any, *_: Any) -> None:
        if not self._averages:
            return
        batch, self._images_seen = objective.images_seen - self._images_seen, objective.images_seen
        weights = [part.tensor.float() for part in self._parts.values()]
        for length in LENGTHS:
            averages = [self._averages[f"{length}/{key}"] for key in self._parts]
            torch._foreach_lerp_(averages, weights, 1 - decay(length, batch, objective.images_seen))
        if due(trainer, self.times):
            self.save(trainer, objective.images_seen)

    def save(self, trainer: Trainer, images_seen: int) -> None:
        averages = save_parts(self.held(), trainer.strategy.root_device, sharded=False)
        if trainer.is_global_zero:
            file = Path(trainer.default_root_dir, SNAPSHOTS, f"{kimg_name(images_seen)}.ckpt")
            AtomicCheckpointIO().save_checkpoint({"images_seen": images_seen, "averages": averages}, file)

    def held(self) -> dict[str, Any]:
        """What this rank has of each average."""
        return {
            key: replace(self._parts[key.partition("/")[2]], tensor=average) for key, average in self._averages.items()
        }

    def on_save_checkpoint(self, trainer: Trainer, objective: Any, checkpoint: dict[str, Any]) -> None:
        if self._averages:
            strategy: Any = trainer.strategy
            checkpoint["posthoc"] = strategy.save_parts(self.held())
