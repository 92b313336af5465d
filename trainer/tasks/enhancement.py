"""Flat, tinted and hazy pictures made clear."""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.tasks.base import Task, between, per_image, require


class Enhancement(Task):
    """Contrast, exposure, colour cast and haze, of values v in [0, 1], each sample with strengths of its own.

    v -> m + c (v - m) about the mean m, c from 1 - contrast; v^g, g from 1 / (1 + gamma) to 1 + gamma; a gain of each
    channel from 1 - cast to 1 + cast; haze t v + (1 - t) A, t from 1 - haze, A from 0.7 to 1 (the model of Koschmieder
    1924 at one distance).
    """

    def __init__(
        self,
        contrast: float = 0.6,
        gamma: float = 0.6,
        cast: float = 0.25,
        haze: float = 0.5,
        source_dropout: float = 0.0,
    ):
        super().__init__(source_dropout)
        for name, value in (("contrast", contrast), ("cast", cast), ("haze", haze)):
            require(0 <= value < 1, f"task.{name}={value}: expected a strength in [0, 1)")
        require(gamma >= 0, f"task.gamma={gamma}: expected a strength of at least 0")
        self.contrast, self.gamma, self.cast, self.haze = contrast, gamma, cast, haze

    def __call__(self, image: Tensor, seed: int, position: Tensor) -> Tensor:
        contrast, gamma, darker, haze, air, *gains = self.draws("enhancement", seed, position, 8)
        value = (image + 1) / 2
        mean = value.mean((1, 2, 3), keepdim=True)
        value = mean + per_image(1 - self.contrast * contrast) * (value - mean)
        exponent = 1 + self.gamma * gamma
        value = value.clamp(1e-6, 1) ** per_image(torch.where(darker < 0.5, exponent, 1 / exponent))
        gain = between(1 - self.cast, 1 + self.cast, torch.stack(gains, 1))
        value = (value * gain[:, :, None, None]).clamp(0, 1)
        seen = per_image(1 - self.haze * haze)
        value = seen * value + (1 - seen) * per_image(between(0.7, 1, air))
        return 2 * value - 1
