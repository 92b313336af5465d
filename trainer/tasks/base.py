"""What all image tasks are: pictures of training made into sources, and pictures of users taken as such."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer import noise
from trainer.errors import UserError
from trainer.size import Resolution, Size


class Task(ABC):
    """(N, 3, H, W) in [-1, 1] to its source (N, channels, H / scale, W / scale).

    What happens to a sample hangs on its position alone. A plain object, part of the network that draws, so that
    checkpoint and export know how a picture is taken.
    source_dropout: share of the samples of training that start from nothing, so that the network draws from a caption
    alone, too, and may be guided by its source (as InstructPix2Pix, Brooks et al. 2023). No source is grey, with a last
    channel of 1: that of a hole's mask where sources have one, else one more, -1 where there is a source.
    """

    channels = 3  # of what is made of a picture
    source_dropout = 0.0
    scale = 1
    translates = False  # whether it is given the sources of the data, as of pairs, not the image that is to be drawn
    holes = False  # whether a source says what is missing, as a mask in its last channel: 1 in a hole, -1 elsewhere

    def __init__(self, source_dropout: float = 0.0):
        require(0 <= source_dropout < 1, f"task.source_dropout={source_dropout}: expected a share in [0, 1)")
        if source_dropout:  # else nothing is said of it, so that figures compare with those of before
            self.source_dropout = source_dropout

    @property
    def source_channels(self) -> int:
        """Of sources as a network reads them."""
        return self.channels + self._has_mark

    @property
    def _has_mark(self) -> bool:
        return bool(self.source_dropout) and not self.holes

    @abstractmethod
    def __call__(self, image: Tensor, seed: int, position: Tensor) -> Tensor:
        """Sources of images at positions (N,) int64 of the stream: the same on any rank, and after any resume."""

    def of_picture(self, picture: Tensor, mask: Tensor | None = None) -> Tensor:
        """The source of a user's pictures (N, 3, h, w) in [-1, 1]; mask: (N, 1, h, w), 1 in a hole."""
        return picture

    def start(self, source: Tensor) -> Tensor:
        """(N, 3, H, W), what the network adds its image to."""
        return source[:, :3]

    def keep(self, image: Tensor, source: Tensor) -> Tensor:
        """The image with what the source says for certain put back."""
        return image

    def marked(self, source: Tensor) -> Tensor:
        """(N, source_channels, h, w): sources as a network reads them, which say that they are some."""
        if source.shape[1] == self.source_channels:
            return source
        if source.shape[1] != self.channels:
            raise UserError(f"sources of {source.shape[1]} channels: expected {self.channels}, as {self} makes them")
        return torch.cat([source, -torch.ones_like(source[:, :1])], 1)

    def nothing(self, count: int, size: Resolution) -> Tensor:
        """(count, source_channels, h, w), no sources."""
        source = torch.zeros(1, self.source_channels, *Size.of(size))
        source[:, -1] = 1
        return source.expand(count, -1, -1, -1)

    def absent(self, source: Tensor) -> Tensor:
        """(N,) bool, which of (N, source_channels, h, w) are no sources."""
        return (source[:, -1] == 1).flatten(1).all(1) & bool(self.source_dropout)

    def dropped(self, source: Tensor, seed: int, position: Tensor) -> Tensor:
        """Sources of training as a network reads them, of which a share `source_dropout` has become none."""
        if not self.source_dropout:
            return source
        (draw,) = self.draws("source dropout", seed, position, 1)
        nothing = self.nothing(1, source.shape[2:]).to(source)
        return torch.where(per_image(draw < self.source_dropout), nothing, self.marked(source))

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
