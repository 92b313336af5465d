"""Augmentation of batches on their device, and what is cut out of pictures before: by a sample's position alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from trainer import noise
from trainer.batch import Batch
from trainer.errors import UserError

LUMA = (0.299, 0.587, 0.114)


class Augment:
    """Random part, flip, shift, colour and noise.

    flip: probability of a mirror image. Keep 0 where captions say left or right, or images carry text.
    crop: largest shift in pixels, each way, with the edge pixels repeated.
    colour: largest relative change of brightness, contrast and saturation, in [0, 1).
    noise: standard deviation of Gaussian pixel noise, as a fraction of the full range.
    random_crop: least sides of a part that lies anywhere in the picture, as a fraction of those of the largest one of
        its proportions, in (0, 1]; any up to 1 is as likely. None: that in the centre, as the picture is measured.
    """

    def __init__(
        self,
        flip: float = 0.0,
        crop: int = 0,
        colour: float = 0.0,
        noise: float = 0.0,
        random_crop: float | None = None,
    ) -> None:
        if not 0 <= flip <= 1:
            raise UserError(f"data.augment.flip={flip}: expected a probability in [0, 1]")
        if crop < 0 or crop != int(crop):
            raise UserError(f"data.augment.crop={crop}: expected a whole number of pixels, 0 for none")
        if not 0 <= colour < 1:
            raise UserError(f"data.augment.colour={colour}: expected a relative change in [0, 1)")
        if noise < 0:
            raise UserError(f"data.augment.noise={noise}: expected a standard deviation of at least 0")
        if random_crop is not None and not 0 < random_crop <= 1:
            raise UserError(f"data.augment.random_crop={random_crop}: expected a fraction in (0, 1], or null for none")
        self.flip, self.crop, self.colour, self.noise, self.random_crop = flip, int(crop), colour, noise, random_crop
        self.moves, self.tints = bool(flip or crop), bool(colour or noise)

    @property
    def idle(self) -> bool:
        return not (self.moves or self.tints or self.random_crop)

    def check(self, decoded: bool) -> None:
        """UserError where pictures are wanted of which the decoded cache has the centre alone."""
        if decoded and self.random_crop is not None:
            remedy = "set data.decoded=false, as the decoded cache has the centre alone"
            raise UserError(f"data.augment.random_crop={self.random_crop}: {remedy}")

    def parts(self, seed: int, position: Tensor) -> np.ndarray | None:
        """(N, 3) that `trainer.data.build.fit` takes of pictures; None for the one in the centre."""
        if self.random_crop is None:
            return None
        draws = noise.uniform(seed, "random crop", position, 3).double().numpy()
        draws[:, 0] = self.random_crop + (1 - self.random_crop) * draws[:, 0]
        return draws

    def of(self, batch: Batch, seed: int) -> Batch:
        """A batch as it is loaded, on whatever device, with its sources as their images."""
        if self.moves or self.tints:
            other = None if batch.other is None else self.of(batch.other, seed)
            return replace(batch, image=self(batch.image, seed, batch.position), other=other)
        return batch

    def __call__(self, images: Tensor, seed: int, position: Tensor) -> Tensor:
        """(N, 3, H, W) uint8 -> the same, channels last; images is not changed. position: (N,) int64."""
        draws = noise.uniform(seed, "augment", position, 6)
        if self.moves:
            images = self._move(images, draws[:, :3])
        if self.tints:
            images = self._tint(images, draws[:, 3:], seed, position)
        return images

    def _move(self, images: Tensor, draws: Tensor) -> Tensor:
        num, channels, height, width = images.shape
        down, right = ((draws[:, 1:] * (2 * self.crop + 1)).long() - self.crop)[:, :, None].unbind(1)
        rows = (torch.arange(height, device=images.device) + down).clamp(0, height - 1)
        columns = (torch.arange(width, device=images.device) + right).clamp(0, width - 1)
        columns = torch.where(draws[:, :1] < self.flip, columns.flip(1), columns)
        first = torch.arange(num, device=images.device)[:, None] * height
        places = (first + rows)[:, :, None] * width + columns[:, None]  # (N, H, W)
        pixels = images.permute(0, 2, 3, 1).reshape(-1, channels)  # gathered as wholes, without copies of windows
        return pixels.index_select(0, places.flatten()).view(num, height, width, channels).permute(0, 3, 1, 2)

    def _tint(self, images: Tensor, draws: Tensor, seed: int, position: Tensor) -> Tensor:
        value = images.float()
        if self.colour:
            # Brightness b, contrast c about the mean m, saturation s about the luma l, in one pass over v:
            # v -> b c s v + b c (1 - s) l(v) + b (1 - c) m
            b, c, s = (1 + self.colour * (2 * draws - 1))[:, :, None, None, None].unbind(1)
            luma = sum(weight * value[:, i : i + 1] for i, weight in enumerate(LUMA))
            mean = value.mean((1, 2, 3), keepdim=True)
            value = value.mul_(b * c * s).add_(b * c * (1 - s) * luma + b * (1 - c) * mean)
        if self.noise:
            num, channels, height, width = images.shape
            grain = noise.normal(seed, "augment/noise", position, channels * height * width)
            grain = grain.view(num, height, width, channels).permute(0, 3, 1, 2)
            value = value.add_(grain, alpha=255 * self.noise)
        return value.add_(0.5).clamp_(0, 255).byte()
