"""Image tasks: a generator that starts from a source, judged by its distance to the image and by a discriminator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from trainer.batch import Batch
from trainer.errors import UserError
from trainer.objectives.gan import GAN


class Restoration(GAN):
    """The generator minimises, on sources s = task(x) of images x with captions c and latents z,
        pixel d(G(z, s, c), x) + perceptual p(G(z, s, c), x) + adversarial L_G(D(G(z, s, c), c))

    as pix2pix (Isola et al. 2017) with a text-conditioned D, of images alone unless `sees_source`: what a source says,
    d asks for. Translations (`task.translates`) take s from the data, where it stands beside x.
    generator: has the `task`. reconstruction: d, (image, target) -> (N,). perceptual: p, the same of features, or None;
    a run whose p has a backbone is judged by another. adversarial: 0 trains without D; then the mean of all images that
    fit a source and a caption is best, which has the highest PSNR and is blurred where there are many. sees_source: D
    judges the image beside its source, augmented alike, as in pix2pix; it then has `image_channels` of both.
    without_source: weight of d and p for samples that start from nothing (`task.source_dropout`): 1 where captions say
    nearly all of an image; 0 where many images fit one, whose mean they would become: D alone says then what it asks.
    augment, matching, r1 and so on as in GAN, all of it within the adversarial term.
    """

    def __init__(
        self,
        reconstruction: Callable[[Tensor, Tensor], Tensor],
        pixel: float = 10.0,
        perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
        perceptual_weight: float = 1.0,
        adversarial: float = 1.0,
        sees_source: bool = False,
        without_source: float = 1.0,
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
        if without_source < 0 or (self.generator.task.source_dropout and not without_source + adversarial):
            raise UserError(
                f"objective.without_source={without_source}, adversarial={adversarial}: expected both from 0, and one "
                "above it, as nothing else says what samples without a source are to be"
            )
        self.reconstruction, self.pixel, self.adversarial = reconstruction, pixel, adversarial
        self.perceptual, self.perceptual_weight = perceptual, perceptual_weight
        self.sees_source, self.without_source = sees_source, without_source
        self.require_channels()
        if not adversarial:
            del self.phases["discriminator"]
            self.make_optimizer = {"generator": self.make_optimizer["generator"]}

    def require_channels(self) -> None:
        """UserError where the discriminator is made for other images than it is to see."""
        task, seen = self.generator.task, getattr(self.discriminator, "image_channels", 3)
        if self.sees_source and (task.scale != 1 or self.consistency or hasattr(self.discriminator, "perceive")):
            raise UserError(
                "objective.sees_source=true: expected a source as large as the image, a discriminator of pixels and "
                "consistency=0"
            )
        if seen != (expected := 3 + self.sees_source * task.source_channels):
            raise UserError(
                f"objective.discriminator sees images of {seen} channels, sees_source={self.sees_source}: expected "
                f"{expected}; take discriminator@objective.discriminator=multiscale and its image_channels={expected}"
            )

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.unshared = None  # a source says which of the pictures of a caption is meant
        if self.generator.task.translates:
            require_sources(getattr(self._trainer, "datamodule", None))

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """With the sources of its images."""
        batch = super().on_after_batch_transfer(batch, dataloader_idx)
        task = self.generator.task
        image = batch.other.image if task.translates and batch.other is not None else batch.image
        source = task.dropped(task(image, self.seed, batch.position), self.seed, batch.position)
        return replace(batch, condition=batch.condition._replace(source=source), other=None)

    def given(self, batch: Batch) -> Tensor:
        """(N,) bool, which samples start from a source."""
        return ~self.generator.task.absent(batch.condition.source)

    def paired(self, batch: Batch) -> Tensor:
        return super().paired(batch) & self.given(batch)

    def perceived(self, image: Tensor, batch: Batch, stream: str) -> Tensor:
        seen = super().perceived(image, batch, stream)
        if not self.sees_source:
            return seen
        source: Any = batch.condition.source
        return torch.cat([seen, super().perceived(source, batch, stream)], 1)

    def generator_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        restored = self.fresh(batch)
        weight = torch.where(self.given(batch), 1.0, self.without_source)
        distance = (weight * self.reconstruction(restored, batch.image)).mean()
        loss, logs = self.pixel * distance, {"generator/distance": distance}
        if self.perceptual is not None:
            perceptual = (weight * self.perceptual(restored, batch.image)).mean()
            loss = loss + self.perceptual_weight * perceptual
            logs["generator/perceptual"] = perceptual
        if self.adversarial:
            judged, more = self.judged(restored, batch)
            loss = loss + self.adversarial * judged
            logs |= more
        return loss, logs | {"generator/loss": loss}


def require_sources(data: Any, paired: bool = True) -> None:
    """UserError where data have no pictures to start from, or no pairs of them where there are to be."""
    if data is None:  # outside of a training
        return
    if data.train.cache.sources is None:
        raise UserError(
            "a translation starts from the data's own sources, and these have none: take data=emoji_pairs, "
            "data=domains, or a folder whose metadata.jsonl has a `source` in each line"
        )
    if paired and not data.paired:
        raise UserError(
            "data.paired=false: this objective compares what it draws with the picture of its source; take "
            "data.paired=true, or +experiment=cyclegan where there are no pairs"
        )
