"""Text-conditioned VAE (Kingma & Welling 2014, Sohn et al. 2015): both networks read the caption, prior N(0, I)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from trainer.batch import Batch, Condition
from trainer.losses.reconstruction import gaussian_kl
from trainer.objectives.base import Objective

if TYPE_CHECKING:
    from trainer.networks.autoencoder import Autoencoder


class VAE(Objective):
    """Minimises distortion + kl_weight * rate / d for images of d = 3*H*W values: the negative ELBO in nats per value.

    distortion = E_q[-log p(x | z, c)] / d, rate = KL(q(z | x, c) || N(0, I)).
    reconstruction: (reconstruction, image) -> (N,), a function of `trainer.losses.reconstruction`.
    warmup_kimg: kl_weight grows linearly from 0 over this many thousand images.
    """

    averaged = ("autoencoder",)
    any_size = True
    draws_with = "autoencoder.decoder"
    explains_pixels = True  # the distortion is that of the image's values: held-out bits per value may be measured
    autoencoder: Any

    def __init__(
        self,
        autoencoder: Autoencoder,
        reconstruction: Callable[[Tensor, Tensor], Tensor],
        kl_weight: float = 1.0,
        warmup_kimg: float = 0.0,
        **loop: Any,
    ):
        super().__init__(**loop)
        self.autoencoder = autoencoder
        self.reconstruction = reconstruction
        self.kl_weight = kl_weight
        self.warmup_kimg = warmup_kimg
        self.latent_channels = autoencoder.decoder.latent_channels
        self.phases = {"autoencoder": self.autoencoder_loss}

    @property
    def rate_weight(self) -> float:
        warm = min(1.0, self.images_seen / 1000 / self.warmup_kimg) if self.warmup_kimg else 1.0
        return warm * self.kl_weight

    def posterior(self, image: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """Mean and log variance (N, Z) of q(z | x, c) of images (N, 3, H, W) in [-1, 1]."""
        return self.autoencoder.encoder(image, condition)

    def reconstruct(self, image: Tensor, condition: Condition) -> Tensor:
        """What the posterior's mean keeps of images (N, 3, H, W) in [-1, 1], (N, 3, H, W) in [-1, 1]."""
        mean, _ = self.posterior(image, condition)
        return self.autoencoder.decoder(mean, condition)

    def autoencoder_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        noise = self.normal("autoencoder", batch, self.latent_channels)
        reconstructed, mean, log_variance = self.autoencoder(batch.image, batch.condition, noise)
        distortion = self.reconstruction(reconstructed, batch.image).mean()
        rate = gaussian_kl(mean, log_variance).mean()
        loss = distortion + self.rate_weight * rate / batch.image[0].numel()
        return loss, {"autoencoder/loss": loss, "autoencoder/distortion": distortion, "autoencoder/rate": rate}
