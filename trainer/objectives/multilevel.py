"""A GAN whose generator is taught at several depths: images on its way, noisier the earlier, are judged together."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from trainer.batch import Batch
from trainer.errors import UserError
from trainer.objectives.gan import GAN


class MultiLevelGAN(GAN):
    """Multi-level noise-perturbed guidance (GAT, Lee et al. 2025): early layers learn what of an image noise leaves.

    The discriminator sees all levels of an image as one, (N, levels * C, H, W), at no cost but that of its first layer.
    Of a real image all levels are that image. Level i of K has (1 - t_i) x_i + t_i n_i, t_i = 1 - I^(1 - i / (K - 1)),
    the last one no noise. The n_i are N(0, I) and each adds noise to that of the level behind it, so that an earlier
    level says nothing of an image that a later one does not. Penalties are on all that it sees.
    information: I, what the first level keeps of an image.
    """

    def __init__(self, *parts: Any, information: float = 0.125, **settings: Any):
        super().__init__(*parts, **settings)
        generator: Any = self.network("generator")
        levels, seen, self.channels = generator.levels, self.discriminator.levels, generator.channels
        if levels != seen or levels < 2:
            raise UserError(f"generator.levels={levels}, discriminator.levels={seen}: expected as many, at least 2")
        if not 0 < information <= 1:
            raise UserError(f"objective.information={information}: expected more than 0 and at most 1")
        if self.consistency or self.matcher:
            raise UserError("objective.consistency and objective.matcher judge one image, not its levels: leave them 0")
        self.times = [1 - information ** (1 - level / (levels - 1)) for level in range(levels)]

    def generated(self, batch: Batch, stream: str) -> Tensor:
        """(N, levels * C, H, W)"""
        latent = self.normal(stream, batch, self.latent_channels)
        return self.network("generator")(latent, batch.condition, all_levels=True).float()

    def perceived(self, image: Tensor, batch: Batch, stream: str) -> Tensor:
        """(N, levels * C, H, W) as the discriminator sees generated images of as many levels, or real ones of one."""
        levels = image.split(self.channels, 1)
        seen = torch.stack([self.augmented(level, batch, stream) for level in levels], 1)
        normals = self.normal(f"{stream}/levels", batch, len(self.times) * levels[0][0].numel())
        return self.seen(noised(seen, self.times, normals.view(len(image), -1, *levels[0][0].shape)).flatten(1, 2))


def noised(image: Tensor, times: list[float], normals: Tensor) -> Tensor:
    """(N, K, C, H, W) of images (N, K or 1, C, H, W): (1 - t_i) x_i + t_i n_i with n_i of unit variance.

    From the last level to the first: s_i = a s_i+1 + sqrt(t_i^2 - a^2 t_i+1^2) e_i, a = (1 - t_i) / (1 - t_i+1), is t_i
    n_i; so level i of one image is a times level i+1 and more noise. normals: the e_i, (N, K, C, H, W).
    """
    image = image.expand(-1, len(times), -1, -1, -1)
    levels: list[Tensor] = []
    noise, before = torch.zeros_like(image[:, 0]), 0.0
    for level in reversed(range(len(times))):
        time = times[level]
        kept = (1 - time) / (1 - before)
        noise = kept * noise + math.sqrt(time**2 - (kept * before) ** 2) * normals[:, level]
        levels.insert(0, (1 - time) * image[:, level] + noise)
        before = time
    return torch.stack(levels, 1)
