"""What all image tasks are: pictures of training made into sources, and pictures of users taken as such."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer import noise
from trainer.errors import UserError


class Task(ABC):
    """(N, 3, H, W) in [-1, 1] to its source (N, source_channels, H / scale, W / scale).

    What happens to a sample hangs on its position alone. A plain object, part of the network that draws, so that
    checkpoint and export know how a picture is taken.
    """

    source_channels = 3
    scale = 1
    translates = False  # whether it is given the sources of the data, as of pairs, not the image that is to be drawn
    holes = False  # whether a source says what is missing, as a mask in its last channel: 1 in a hole, -1 elsewhere

    @abstractmethod
    def __call__(self, image: Tensor, seed: int, position: Tensor) -> Tensor:
        """Sources of images at positions (N,) int64 of the stream: the same on any rank, and after any resume."""

    def of_picture(self, picture: Tensor, mask: Tensor | None = None) -> Tensor:
        """The source of a user's pictures (N, 3, h, w) in [-1, 1]; mask: (N, 1, h, w), 1 in a hole."""
        return picture

    def start(self, source: Tensor) -> Tensor:
        """(N, 3, H, W), what the network adds its image to."""
        return source

    def keep(self, image: Tensor, source: Tensor) -> Tensor:
        """The image with what the source says for certain put back."""
        return image

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{key}={value}' for key, value in vars(self).items())})"

    def draws(self, name: str, seed: int, position: Tensor, count: int) -> list[Tensor]:
        """`count` times (N,) uniform in [0, 1)."""
        return list(noise.uniform(seed, f"task/{name}", position, count).unbind(1))


def between(low: float, high: float, draw: Tensor) -> Tensor:
    """Uniform from low to high."""
    return low + (high - low) * draw


def require(holds: bool, what: str) -> None:
    """UserError that says what a task expects of its numbers."""
    if not holds:
        raise UserError(what)


def enlarged(source: Tensor, scale: int) -> Tensor:
    """Bicubic, within [-1, 1]."""
    return F.interpolate(source, scale_factor=scale, mode="bicubic").clamp(-1, 1)


def per_image(value: Tensor) -> Tensor:
    """(N,) as (N, 1, 1, 1)."""
    return value.view(-1, 1, 1, 1)


def grain(image: Tensor, sigma: Tensor, seed: int, position: Tensor) -> Tensor:
    """Gaussian noise of sigma (N,), of values in [-1, 1], on images, cut to that range as what is stored is."""
    normals = noise.normal(seed, "task/grain", position, image[0].numel()).view_as(image)
    return torch.addcmul(image, per_image(sigma), normals).clamp(-1, 1)
