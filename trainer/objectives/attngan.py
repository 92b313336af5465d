"""AttnGAN (Xu et al. 2018): a GAN of images in stages, each with a discriminator, and a matcher's loss of the last."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from trainer.batch import Batch
from trainer.errors import UserError
from trainer.losses.reconstruction import gaussian_kl
from trainer.networks.attngan import packed, smaller, unpacked
from trainer.objectives.gan import GAN


class AttnGAN(GAN):
    """GAN of `trainer.networks.attngan`: losses are means over the stages, penalties are of the stages' mean logit.

    caption_kl: weight of KL(N(mu(c), sigma(c)^2) || N(0, I)) of the caption's vector in the generator's loss, in nats a
    value (Zhang et al. 2017).
    The DAMSM loss of the last image is that of `matcher`, at matcher_weight (lambda of eq. 4: 5 on birds, 50 on COCO).
    """

    def __init__(self, generator: Any, discriminator: Any, caption_kl: float = 1.0, **gan: Any):
        super().__init__(generator, discriminator, **gan)
        if not hasattr(generator, "stages") or getattr(discriminator, "sizes", None) != generator.sizes:
            raise UserError(
                f"objective.generator={type(generator).__name__}, discriminator={type(discriminator).__name__}: "
                "expected both of attngan, with as many stages; experiment=dcgan takes any others"
            )
        if self.consistency:
            raise UserError(f"objective.consistency={self.consistency}: it knows no images in stages; leave it out")
        self.caption_kl = caption_kl

    def generator_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss, logs = super().generator_loss(batch)
        mean, log_variance = self.generator.augmentation(self.generator.text(batch.condition))
        rate = gaussian_kl(mean, log_variance).mean() / mean.shape[1]
        return loss + self.caption_kl * rate, logs | {"generator/caption_kl": rate}

    def generated(self, batch: Batch, stream: str) -> Tensor:
        """Images of all stages, `packed`."""
        latent = self.normal(stream, batch, self.latent_channels)
        return packed(self.generator.stages(latent, batch.condition)).float()

    def last(self, generated: Tensor) -> Tensor:
        return unpacked(generated, self.generator.drawn)[-1]

    def perceived(self, image: Tensor, batch: Batch, stream: str) -> Tensor:
        """All stages of generated images, or of real ones, augmented alike, `packed`."""
        sizes = self.generator.drawn
        images = smaller(image, sizes) if image.dim() == 4 else unpacked(image, sizes)
        return packed([self.augmented(each, batch, stream) for each in images])
