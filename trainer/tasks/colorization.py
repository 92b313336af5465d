"""Grey pictures in colour, as the caption says."""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.tasks.base import Task, per_image
from trainer.tasks.degradations import luma


class Colorization(Task):
    """The source is the luma (N, 1, H, W); the network adds colour, and the luma of the image is that of the source,

    up to where a colour of that luma would leave the range (Zhang et al. 2016 predict a and b of Lab beside a given L).
    """

    channels = 1

    def __call__(self, image: Tensor, seed: int, position: Tensor) -> Tensor:
        return luma(image)

    def of_picture(self, picture: Tensor, mask: Tensor | None = None) -> Tensor:
        return luma(picture)

    def start(self, source: Tensor) -> Tensor:
        return source[:, :1].expand(-1, 3, -1, -1)

    def keep(self, image: Tensor, source: Tensor) -> Tensor:
        kept = image + source[:, :1] - luma(image)
        return torch.where(per_image(self.absent(source)), image, kept) if self.source_dropout else kept
