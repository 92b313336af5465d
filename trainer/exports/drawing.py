"""The network that draws in the place of the objective that trained it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from trainer.batch import Condition
from trainer.objectives.guidance import Guided


class Drawing(Guided, nn.Module):
    """Draws as the objective did that trained `generator`, (latent, condition) -> (N, 3, H, W) in [-1, 1].

    config: resolved configuration of the run, in which this stands as `objective`. images_seen, global_step: in that
    training.
    """

    draws_with = "generator"

    def __init__(self, generator: nn.Module):
        super().__init__()
        self.generator = generator
        self.latent_channels: Any = generator.latent_channels
        self.config: dict[str, Any] = {}
        self.images_seen = 0
        self.global_step = 0
        self.source: Path | None = None  # checkpoint that it was taken from

    def sample(self, latent: Tensor, condition: Condition) -> Tensor:
        return self.generator(latent, condition)

    def ema_weights(self) -> AbstractContextManager[None]:
        return nullcontext()  # the weights are the averages
