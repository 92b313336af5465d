"""One process, one device."""

from __future__ import annotations

import torch
from pytorch_lightning.strategies import SingleDeviceStrategy

from trainer.strategies.base import PerNetwork


class Single(PerNetwork, SingleDeviceStrategy):  # type: ignore[misc]
    """Trains on one device: the first of those that the trainer's accelerator has."""

    def __init__(self, device: str | None = None, compile: bool = False, checkpoint_activations: bool = False):
        super().__init__(device=device or "cpu")
        self.compile, self.checkpoint_activations = compile, checkpoint_activations
        self.parallel_devices = [self._root_device] if device else []  # Lightning fills it where it is empty

    @property
    def root_device(self) -> torch.device:
        return self.parallel_devices[0] if self.parallel_devices else self._root_device
