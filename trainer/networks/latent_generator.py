"""A generator of the latents of a tokenizer, and images of them by its decoder."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from trainer.batch import Condition
from trainer.networks.tokenizer import Tokenizer

LEAST = 1e-3  # standard deviation of a channel; less is no signal that were worth to be blown up


class LatentGenerator(nn.Module):
    """A network that trains, and the frozen tokenizer of an earlier run, which decodes what that makes.

    latents: (latent (N, Z), Condition) -> (N, C, *size) standardised, without the sizes of the tokenizer's map
    (`_partial_: true`). Channel c of a tokenizer's latents is standardised as (x_c - mean_c) / std_c (Rombach et al.
    2022, appendix G, with one factor for all); mean and std are of the training images (`measure`), and are saved.
    """

    latents: Any
    tokenizer: Any
    mean: Tensor
    std: Tensor

    def __init__(self, latents: Callable[..., nn.Module], tokenizer: Tokenizer):
        super().__init__()
        self.tokenizer = tokenizer.requires_grad_(False)
        self.channels = int(self.tokenizer.bottleneck.out_channels)
        self.latents = latents(resolution=tokenizer.size, channels=self.channels)
        self.latent_channels = int(self.latents.latent_channels)
        self.chooses = bool(tokenizer.num_codes)  # where a latent rounds otherwise, it is another code
        self.register_buffer("mean", torch.zeros(self.channels, 1, 1))
        self.register_buffer("std", torch.ones(self.channels, 1, 1))

    def train(self, mode: bool = True) -> LatentGenerator:
        super().train(mode)
        self.tokenizer.eval()
        return self

    def forward(self, latent: Tensor, condition: Condition) -> Tensor:
        """Images (N, 3, H, W) in [-1, 1]."""
        made = self.latents(latent, condition).float()
        return self.tokenizer.images(made * self.std + self.mean, condition)

    def standardised(self, latents: Tensor) -> Tensor:
        """Latents (N, C, *size) of the tokenizer with zero mean and unit variance, over a data set."""
        return (latents - self.mean) / self.std

    @torch.no_grad()
    def measure(self, images: Iterable[Tensor]) -> None:
        """Sets mean and standard deviation to those of batches of images (N, 3, H, W) in [-1, 1]."""
        values = torch.cat([self.tokenizer.latents(image).double().cpu() for image in images])
        std, mean = torch.std_mean(values, (0, 2, 3), correction=0)
        self.mean.copy_(mean.view_as(self.mean))
        self.std.copy_(std.clamp(min=LEAST).view_as(self.std))
