"""A GAN in the latents of a tokenizer: both players see small maps, and a decoder makes images only to be shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from trainer.batch import Batch
from trainer.data.encoded import Encoding
from trainer.errors import UserError
from trainer.networks.latent_generator import LatentGenerator
from trainer.objectives.multilevel import MultiLevelGAN
from trainer.runs.trained import Tokenizer

MEASURED, AT_ONCE = 2048, 64  # training images whose latents are measured; images in memory


class LatentGAN(MultiLevelGAN):
    """GAT (Lee et al. 2025): `MultiLevelGAN` on standardised latents (N, C, h, w) in place of images.

    generator: the network that trains, and the tokenizer, which is frozen. The weights of that are read from the run
    `tokenizer` when a new training begins, and kept in checkpoint and export, as are mean and deviation of the latents
    of the training images, measured then: nothing needs that run afterwards. Latents come with the batch (`encoding`),
    or are made of images that data augmentation has changed. discriminator: without a map's sizes (`_partial_: true`).
    """

    averaged = ("generator.latents",)

    def __init__(
        self,
        generator: LatentGenerator,
        discriminator: Callable[..., nn.Module],
        *parts: Any,
        tokenizer: str | None = None,
        **settings: Any,
    ):
        if given := [key for key in ("augment", "consistency", "matcher") if settings.get(key)]:
            raise UserError(f"objective.{given[0]}: it is of images, and this GAN sees latents: leave it out")
        sizes = {"resolution": generator.tokenizer.size, "channels": generator.channels}
        super().__init__(generator, discriminator(**sizes), *parts, **settings)
        self.tokenizer = tokenizer
        self.unmeasured = False

    def network(self, name: str) -> nn.Module:
        return super().network("generator.latents" if name == "generator" else name)

    def begin(self) -> None:
        Tokenizer.into(self.generator.tokenizer, self.tokenizer, self.config)
        self.unmeasured = True
        super().begin()

    def on_fit_start(self) -> None:
        """Every rank measures the same images, and so finds the same."""
        super().on_fit_start()
        if not self.unmeasured:
            return
        train: Any = self.trainer.datamodule.train  # type: ignore[attr-defined]
        chosen = np.linspace(0, len(train) - 1, min(MEASURED, len(train)), dtype=np.int64)
        parts = np.split(chosen, range(AT_ONCE, len(chosen), AT_ONCE))
        images = (torch.from_numpy(train.images[part]).permute(0, 3, 1, 2) for part in parts)
        self.generator.measure(image.to(self.device).float() / 127.5 - 1 for image in images)
        self.unmeasured = False

    @property
    def encoding(self) -> Encoding:
        return Encoding("latents", self.generator.tokenizer, self.generator.tokenizer.latents)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        latents = batch.encoded
        if latents is None:
            with torch.no_grad():
                latents = self.generator.tokenizer.latents(batch.image)
        standardised = self.generator.standardised(latents)
        super().training_step(replace(batch, image=standardised, encoded=None), batch_idx)
