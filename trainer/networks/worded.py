"""A generator that reads token ids: a small text encoder, and a generator of features behind it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from trainer.batch import Condition


class WordedGenerator(nn.Module):
    """(latent (N, Z), Condition of ids) -> images, by a text encoder that trains and a trained generator, frozen.

    text: Condition of ids (N, L) -> Condition of features, as the generator has learned to read.
    """

    text: Any
    generator: Any

    def __init__(self, text: nn.Module, generator: nn.Module):
        super().__init__()
        self.text = text
        self.generator = generator.requires_grad_(False)
        self.latent_channels = int(self.generator.latent_channels)
        self.chooses = getattr(generator, "chooses", False)
        self.task, self.resolution = (getattr(generator, name, None) for name in ("task", "resolution"))

    def train(self, mode: bool = True) -> WordedGenerator:
        super().train(mode)
        self.generator.eval()
        return self

    def forward(self, latent: Tensor, condition: Condition) -> Tensor:
        """Images (N, 3, H, W) in [-1, 1]."""
        return self.generator(latent, self.text(condition))

    def guided(self, latent: Tensor, condition: Condition, unconditional: Condition, scale: float) -> Tensor:
        """As the generator is guided, in its steps or in its image (`Objective.guided`)."""
        towards, away = self.text(condition), self.text(unconditional)
        if hasattr(self.generator, "guided"):
            return self.generator.guided(latent, towards, away, scale)
        return self.generator(latent, away).lerp(self.generator(latent, towards), scale).clamp(-1, 1)

    @property
    def truncation(self) -> float:
        """Of the generator's styles, where it has any."""
        return float(self.generator.truncation)

    @truncation.setter
    def truncation(self, value: float) -> None:
        self.generator.truncation = value

    @property
    def canvas(self) -> Any:
        """Size that the generator draws at, where it can draw others than its own."""
        return self.generator.canvas

    @canvas.setter
    def canvas(self, size: Any) -> None:
        self.generator.canvas = size
