"""An autoencoder whose bottleneck is a map of codes (VQ-VAE, FSQ) or of Gaussians: what a prior of images stands on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from trainer.batch import Batch, Condition
from trainer.objectives.base import Objective

if TYPE_CHECKING:
    from trainer.networks.tokenizer import Tokenizer


class Autoencoding(Objective):
    """Minimises distortion + the cost of the bottleneck: of a codebook the commitment, of Gaussians the rate.

    It draws nothing, but `reconstruct`s: a prior that draws its codes is another run's (tokenizer=RUN).
    reconstruction: (reconstruction, image) -> (N,), a function of `trainer.losses.reconstruction`.
    """

    any_size = True
    averaged = ("autoencoder",)
    autoencoder: Any

    def __init__(self, autoencoder: Tokenizer, reconstruction: Callable[[Tensor, Tensor], Tensor], **loop: Any):
        super().__init__(**loop)
        self.autoencoder = autoencoder
        self.reconstruction = reconstruction
        self.phases = {"autoencoder": self.autoencoder_loss}

    def reconstruct(self, image: Tensor, condition: Condition) -> Tensor:
        """What the codes, or the means, keep of images (N, 3, H, W) in [-1, 1], (N, 3, H, W) in [-1, 1]."""
        return self.autoencoder(image, condition, image.new_zeros(len(image), self.autoencoder.num_draws(image)))[0]

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        bottleneck = self.autoencoder.bottleneck
        if not self.autoencoder.num_codes:
            super().training_step(batch, batch_idx)
            return
        bottleneck.revive()
        super().training_step(batch, batch_idx)
        bottleneck.update(len(batch) * self.trainer.world_size)
        self.logs["autoencoder/codes_used"] = bottleneck.used(math.prod(self.autoencoder.size))
        self.logs["autoencoder/perplexity"] = bottleneck.perplexity()

    def autoencoder_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        reconstructed, cost, logs = self.passed(batch)
        distortion = self.reconstruction(reconstructed, batch.image)
        loss = (distortion + cost).mean()
        return loss, logs | {"autoencoder/loss": loss, "autoencoder/distortion": distortion.mean()}

    def passed(self, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Reconstruction (N, 3, H, W), cost of the bottleneck (N,), and logs; its statistics see the batch."""
        normals = self.normal("autoencoder", batch, self.autoencoder.num_draws(batch.image))
        reconstructed, passed, features = self.autoencoder(batch.image, batch.condition, normals)
        if passed.codes is not None:
            self.autoencoder.bottleneck.observe(features, passed.codes, normals)
        return reconstructed, passed.cost, {"autoencoder/cost": passed.cost.mean()}
