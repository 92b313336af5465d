"""What every rank of a job sees, for the tests."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer


class Watch(Callback):
    """Writes RUN/rank0.pt ...: node, positions and latents of each step. Each step takes `seconds` longer."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.seen: dict[str, Any] = {"node": os.environ.get("SLURMD_NODENAME"), "positions": [], "latents": []}

    def on_train_batch_start(self, trainer: Trainer, objective: Any, batch: Any, index: int) -> None:
        self.seen["positions"].append(batch.position.clone())
        self.seen["latents"].append(objective.normal("generator", batch, objective.latent_channels))
        time.sleep(self.seconds)

    def on_train_end(self, trainer: Trainer, objective: Any) -> None:
        torch.save(self.seen, Path(trainer.default_root_dir, f"rank{trainer.global_rank}.pt"))
