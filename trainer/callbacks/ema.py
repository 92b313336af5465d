"""Exponential moving average of the weights that sample."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor

from trainer.errors import UserError
from trainer.strategies.parts import fill


class EMA(Callback):
    """Keeps `objective.ema`, fp32 shadows of the networks named in `objective.averaged`.

    The half-life is in images, so it means the same at any batch size and number of ranks (Karras et al. 2018):
    shadow <- weights + decay * (shadow - weights), decay = 0.5 ** (images in the batch / half-life in images).
    Early on the half-life is at most `rampup_ratio` of the images seen, so that the average forgets the random start.
    Buffers (running statistics) are not averaged: samples use the live ones. A resumed run continues from the shadows
    in its checkpoint. A rank keeps the shadows of what it keeps of the weights.
    """

    def __init__(self, halflife_kimg: float, rampup_ratio: float = 0.05) -> None:
        if halflife_kimg < 0 or rampup_ratio <= 0:
            raise UserError(f"EMA: halflife_kimg={halflife_kimg} must be >= 0 and rampup_ratio={rampup_ratio} > 0")
        self.halflife = halflife_kimg * 1000
        self.rampup_ratio = rampup_ratio
        self._images_seen = 0
        self._weights: list[Tensor] = []
        self._shadows: list[Tensor] = []

    def decay(self, batch_images: int, images_seen: int) -> float:
        """How much of the shadow one batch leaves, in [0, 1)."""
        halflife = min(self.halflife, images_seen * self.rampup_ratio)
        return 0.5 ** (batch_images / halflife) if halflife > 0 else 0.0

    def on_train_start(self, trainer: Trainer, objective: Any) -> None:
        strategy: Any = trainer.strategy
        parts = {
            f"{name}.{key}": strategy.part(weight)
            for name in objective.averaged
            for key, weight in objective.get_submodule(name).named_parameters()
        }
        restored = objective.ema
        objective.ema = {key: part.tensor.to(torch.float32, copy=True) for key, part in parts.items()}
        for key, whole in restored.items():
            fill(replace(parts[key], tensor=objective.ema[key]), whole)
        self._images_seen = objective.images_seen
        self._weights, self._shadows = [part.tensor for part in parts.values()], list(objective.ema.values())

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, objective: Any, *_: Any) -> None:
        decay = self.decay(objective.images_seen - self._images_seen, objective.images_seen)
        self._images_seen = objective.images_seen
        if self._shadows:
            weights = [weight.float() for weight in self._weights]  # no copy where they are fp32 already
            torch._foreach_lerp_(self._shadows, weights, 1 - decay)  # one fused call for all of them
