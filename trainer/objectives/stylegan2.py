"""StyleGAN2 (Karras et al. 2020): a GAN whose generator mixes styles and keeps the lengths of its paths."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trainer.batch import Batch
from trainer.errors import UserError
from trainer.losses.regularizers import path_lengths
from trainer.objectives.gan import GAN


class StyleGAN2(GAN):
    """GAN of a generator with `mapping` and `synthesis`, as `trainer.networks.stylegan2.Generator`.

    mixing: probability that a sample has another latent's style from one of its convolutions on (Karras et al. 2019).
    path_length: weight of (|J_w^T y| - a)^2 in the generator's loss, eq. 4; every path_length_interval batches, scaled
    by it. a is the running mean of lengths with `path_length_decay`, of all ranks and micro-batches, and is what it was
    before the step; the first one sets it. It is exact, in float32 whatever the precision.
    """

    mean_path_length: Tensor

    def __init__(
        self,
        generator: Any,
        mixing: float = 0.9,
        path_length: float = 2.0,
        path_length_interval: int = 8,
        path_length_decay: float = 0.01,
        **gan: Any,
    ):
        super().__init__(generator, **gan)
        if not hasattr(generator, "mapping") or not hasattr(generator, "synthesis"):
            raise UserError(
                f"objective.generator={type(generator).__name__} has no styles to mix: take generator=stylegan2, "
                "or objective=gan"
            )
        if not 0 <= mixing <= 1 or not 0 < path_length_decay <= 1 or path_length_interval < 1:
            raise UserError(
                f"objective.mixing={mixing}, path_length_decay={path_length_decay}, path_length_interval="
                f"{path_length_interval}: expected a probability, a share above 0, and at least 1 batch"
            )
        self.mixing = mixing
        self.path_length = path_length
        self.path_length_interval = path_length_interval
        self.path_length_decay = path_length_decay
        self.register_buffer("mean_path_length", torch.zeros(()))

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        super().training_step(batch, batch_idx)
        if "generator/path_length" in self.logs:
            found, mean = self.logs["generator/path_length"], self.mean_path_length
            mean.copy_(torch.where(mean > 0, mean.lerp(found, self.path_length_decay), found))

    def generator_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        if not self.path_length or self.trainer.global_step % self.path_length_interval:
            return super().generator_loss(batch)
        self.until_backward.enter_context(self.strategy.full_params(self.generator))
        loss, logs = super().generator_loss(batch)
        with torch.autocast(batch.image.device.type, enabled=False):
            latent = self.normal("generator/path", batch, self.latent_channels)
            z, noise_maps = self.generator.unpacked(latent)
            condition = self.generator.text(batch.condition)
            styles = self.per_convolution(self.generator.mapping(z, condition)).contiguous()
            images = self.generator.synthesis(styles, noise_maps, condition)
            direction = self.normal("generator/direction", batch, images[0].numel()).view_as(images)
            lengths = path_lengths(images, styles, direction)
        mean = self.mean_path_length
        penalty = (lengths - torch.where(mean > 0, mean, lengths.detach())).square().mean()
        logs |= {"generator/path_length": lengths.mean(), "generator/path_penalty": penalty}
        return loss + self.path_length_interval * self.path_length * penalty, logs

    def generated(self, batch: Batch, stream: str) -> Tensor:
        generator = self.generator
        z, noise_maps = generator.unpacked(self.normal(stream, batch, self.latent_channels))
        condition = generator.text(batch.condition)
        styles = self.per_convolution(generator.mapping(z, condition))
        if self.mixing:
            other = generator.mapping(self.normal(f"{stream}/mixing", batch, generator.z_channels), condition)
            mixed, place = self.uniform(f"{stream}/mixing", batch, 2).unbind(1)
            begins = 1 + place * (generator.num_styles - 1)  # from 1 to below num_styles
            convolution = torch.arange(1, generator.num_styles + 1, device=z.device)
            swapped = (mixed < self.mixing)[:, None] & (convolution > begins[:, None])
            styles = torch.where(swapped[:, :, None], other[:, None], styles)
        return generator.synthesis(styles, noise_maps, condition).float()

    def per_convolution(self, style: Tensor) -> Tensor:
        """(N, num_styles, S) of one style (N, S) for all."""
        return style[:, None].expand(-1, self.generator.num_styles, -1)
