"""Generative stochastic network (Bengio et al. 2014): a denoiser trains, and a walk of noise and denoising draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainer.batch import Batch
from trainer.errors import UserError
from trainer.losses.reconstruction import l2
from trainer.objectives.base import Objective

if TYPE_CHECKING:
    from trainer.networks.hourglass import Chain


class GSN(Objective):
    """Minimises E |f(x_k + sigma n_k, c) - x|^2 over k < walkback, x_k+1 = f(x_k + sigma n_k, c), x_0 = x or grey.

    With the data's own noise (k = 0) f is the mean of P(X | noisy X), by which the walk has the data's distribution
    where that is Gaussian; from the states that the walk itself comes to (walkback, Bengio et al. 2013, algorithm 1) it
    learns to come back. A state is a constant of the next step. Every second walk, by chance, begins at grey, as those
    do that draw: a denoiser that never saw grey took it for the inside of a shape, and filled pictures with one colour.
    """

    averaged = ("generator",)
    draws_with = "generator"
    generator: Any

    def __init__(self, generator: Chain, walkback: int = 2, **loop: Any):
        super().__init__(**loop)
        if walkback < 1 or generator.steps < 1 or generator.sigma <= 0:
            raise UserError(
                f"objective.walkback={walkback}, generator.steps={generator.steps}, generator.sigma={generator.sigma}: "
                "expected at least 1, at least 1, and more than 0"
            )
        self.generator = generator
        self.walkback = walkback
        self.latent_channels = generator.latent_channels
        self.phases = {"generator": self.generator_loss}

    def generator_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        total, logs = torch.zeros((), device=batch.image.device), {}
        of_data = self.uniform("generator/start", batch, 1)[:, :, None, None] < 0.5
        state = of_data * batch.image
        for step in range(self.walkback):
            normals = self.normal(f"generator/{step}", batch, batch.image[0].numel()).view_as(batch.image)
            found = self.generator.denoiser(state + self.generator.sigma * normals, batch.condition)
            error = l2(found, batch.image).mean()
            logs[f"generator/error_{step}"] = error
            total = total + error / self.walkback
            state = found.detach().float()
        return total, logs | {"generator/loss": total}
