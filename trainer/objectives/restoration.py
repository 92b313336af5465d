"""Image tasks: a generator that starts from a source, judged by its distance to the image and by a discriminator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor

from trainer.batch import Batch
from trainer.errors import UserError
from trainer.objectives.gan import GAN


class Restoration(GAN):
    """The generator minimises, on sources s = task(x) of images x with captions c and latents z,
        pixel d(G(z, s, c), x) + perceptual p(G(z, s, c), x) + adversarial L_G(D(G(z, s, c), c))

    as pix2pix (Isola et al. 2017) with a text-conditioned D of images alone: what a source says, d asks for.
    generator: has the `task`. reconstruction: d, (image, target) -> (N,). perceptual: p, the same of features, or None;
    a run whose p has a backbone is judged by another. adversarial: 0 trains without D; then the mean of all images that
    fit a source and a caption is best, which has the highest PSNR and is blurred where there are many.
    augment, matching, r1 and so on as in GAN, all of it within the adversarial term.
    """

    def __init__(
        self,
        reconstruction: Callable[[Tensor, Tensor], Tensor],
        pixel: float = 10.0,
        perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
        perceptual_weight: float = 1.0,
        adversarial: float = 1.0,
        **gan: Any,
    ):
        super().__init__(**gan)
        if not hasattr(self.generator, "task"):
            raise UserError(
                "objective.generator: a restoration starts from an image, and this one draws from nothing; take "
                "generator@objective.generator=unet"
            )
        if min(pixel, perceptual_weight, adversarial) < 0 or not pixel + adversarial:
            raise UserError(
                f"objective.pixel={pixel}, perceptual_weight={perceptual_weight}, adversarial={adversarial}: expected "
                "all from 0, and pixel or adversarial above 0"
            )
        self.reconstruction, self.pixel, self.adversarial = reconstruction, pixel, adversarial
        self.perceptual, self.perceptual_weight = perceptual, perceptual_weight
        if not adversarial:
            del self.phases["discriminator"]
            self.make_optimizer = {"generator": self.make_optimizer["generator"]}

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """With the sources of its images."""
        batch = super().on_after_batch_transfer(batch, dataloader_idx)
        source = self.generator.task(batch.image, self.seed, batch.position)
        return replace(batch, condition=batch.condition._replace(source=source))

    def generator_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        restored = self.fresh(batch)
        distance = self.reconstruction(restored, batch.image).mean()
        loss, logs = self.pixel * distance, {"generator/distance": distance}
        if self.perceptual is not None:
            perceptual = self.perceptual(restored, batch.image).mean()
            loss = loss + self.perceptual_weight * perceptual
            logs["generator/perceptual"] = perceptual
        if self.adversarial:
            judged, more = self.judged(restored, batch)
            loss = loss + self.adversarial * judged
            logs |= more
        return loss, logs | {"generator/loss": loss}
