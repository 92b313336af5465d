"""Encoder and decoder as one network: they share a phase, an optimiser and an engine."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from trainer.batch import Condition


class Autoencoder(nn.Module):
    """encoder: (image, condition) -> mean, log variance (N, Z). decoder: a generator, (latent, condition) -> image."""

    encoder: Any
    decoder: Any

    def __init__(self, encoder: nn.Module, decoder: nn.Module):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, image: Tensor, condition: Condition, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction (N, 3, H, W), posterior mean and log variance; z = mean + exp(log_variance / 2) * noise."""
        mean, log_variance = self.encoder(image, condition)
        return self.decoder(mean + (0.5 * log_variance).exp() * noise, condition), mean, log_variance
