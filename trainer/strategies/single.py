"""One process, one device."""

from __future__ import annotations

import torch
from pytorch_lightning.strategies import SingleDeviceStrategy

from trainer.strategies.base import PerNetwork


class Single(PerNetwork, SingleDeviceStrategy):  # type: ignore[misc]
    """Trains on one device: the first GPU where there is one, else the CPU."""

    def __init__(self, device: str | None = None):
        super().__init__(device=device or ("cuda:0" if torch.cuda.is_available() else "cpu"))
