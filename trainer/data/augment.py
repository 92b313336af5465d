"""Augmentation of uint8 batches, and what is cut out of pictures; what happens to a sample depends on its position."""

from __future__ import annotations

import numpy as np
import torch

from trainer import noise
from trainer.errors import UserError

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


class Augment:
    """Random square, flip, shift, colour and noise.

    flip: probability of a mirror image. Keep 0 where captions say left or right, or images carry text.
    crop: largest shift in pixels, each way, with the edge pixels repeated.
    colour: largest relative change of brightness, contrast and saturation, in [0, 1).
    noise: standard deviation of Gaussian pixel noise, as a fraction of the full range.
    random_crop: least side of a square that lies anywhere in the picture, as a fraction of its shorter side, in (0, 1];
        any up to that side is as likely. None: the square in the centre, as the picture is measured.
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

    @property
    def idle(self) -> bool:
        return not (self.flip or self.crop or self.colour or self.noise or self.random_crop)

    def check(self, decoded: bool) -> None:
        """UserError where pictures are wanted of which the decoded cache has the square in the centre alone."""
        if decoded and self.random_crop is not None:
            remedy = "set data.decoded=false, as the decoded cache has the square in the centre alone"
            raise UserError(f"data.augment.random_crop={self.random_crop}: {remedy}")

    def squares(self, seed: int, position: torch.Tensor) -> np.ndarray | None:
        """(N, 3) that `trainer.data.build.fit` takes of pictures; None for that in the centre."""
        if self.random_crop is None:
            return None
        draws = noise.uniform(seed, "random crop", position, 3).double().numpy()
        draws[:, 0] = self.random_crop + (1 - self.random_crop) * draws[:, 0]
        return draws

    def __call__(self, images: np.ndarray, seed: int, position: torch.Tensor) -> np.ndarray:
        """(N, H, W, 3) uint8 -> the same; images is not changed. position: (N,) int64."""
        if self.idle:
            return images
        draws = noise.uniform(seed, "augment", position, 6).numpy()
        if self.flip or self.crop:
            images = self._move(images, draws[:, :3])
        if self.colour or self.noise:
            images = self._tint(images, draws[:, 3:], seed, position)
        return images

    def _move(self, images: np.ndarray, draws: np.ndarray) -> np.ndarray:
        num, height, width, _ = images.shape
        down, right = (draws[:, 1:] * (2 * self.crop + 1)).astype(np.int64).T[:, :, None] - self.crop
        rows = np.clip(np.arange(height) + down, 0, height - 1)
        columns = np.clip(np.arange(width) + right, 0, width - 1)
        columns = np.where(draws[:, :1] < self.flip, columns[:, ::-1], columns)
        pixels = (np.arange(num)[:, None, None] * height + rows[:, :, None]) * width + columns[:, None, :]
        return images.reshape(-1, 3).take(
            pixels, axis=0
        )  # one gather of whole pixels, and no copies of windows

    def _tint(self, images: np.ndarray, draws: np.ndarray, seed: int, position: torch.Tensor) -> np.ndarray:
        value = images.reshape(len(images), -1, 3).astype(np.float32)
        if self.colour:
            # Brightness b, contrast c about the mean m, saturation s about the luma l: one linear map a sample,
            # v -> b c (s v + (1 - s) l(v)) + b (1 - c) m
            b, c, s = 1 + self.colour * (2 * draws.T[:, :, None, None] - 1)
            mean = value.mean((1, 2), keepdims=True)
            value = value @ (b * c * (s * np.eye(3, dtype=np.float32) + (1 - s) * _LUMA[:, None])) + b * (1 - c) * mean
        if self.noise:
            grain = noise.normal(seed, "augment/noise", position, images[0].size).numpy()
            value += grain.reshape(value.shape) * (255 * self.noise)
        return np.clip(value + 0.5, 0, 255).astype(np.uint8).reshape(images.shape)
