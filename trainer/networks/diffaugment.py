"""Differentiable augmentation of what the discriminator sees."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.errors import UserError


class DiffAugment(nn.Module):
    """Random colour, shift and hole, applied to real and generated images alike (Zhao et al. 2020, "DiffAugment").

    colour: scale of the ranges, at 1 (the paper) brightness [-1/2, 1/2], saturation [0, 2], contrast [1/2, 3/2].
    translation: largest shift, as a fraction of each side; what enters is 0 (mid-grey). The paper's is 1/8.
    cutout: side of a square of zeros around a random point, as a fraction of each side. The paper's is 1/2.
    A strength of 0 turns that part off; with all at 0 the images are returned as they are.
    """

    num_draws = 7  # for each part its own columns: turning one part off leaves the draws of the others alone

    def __init__(self, colour: float = 1.0, translation: float = 0.125, cutout: float = 0.5) -> None:
        super().__init__()
        for name, strength in (("colour", colour), ("translation", translation), ("cutout", cutout)):
            if not 0 <= strength <= 1:
                raise UserError(f"augmentation strength {name}={strength}: expected 0 (off) to 1; set it in that range")
        self.colour, self.translation, self.cutout = colour, translation, cutout

    def forward(self, images: Tensor, uniform: Tensor) -> Tensor:
        """Transformed images (N, C, H, W), in about [-1, 1] as given, channels last. Differentiable twice.

        uniform: (N, num_draws) in [0, 1), one row a sample: the only randomness, so equal rows give equal transforms.
        """
        num, _, height, width = images.shape
        draws = uniform[:, :, None, None, None].unbind(1)  # each (N, 1, 1, 1)
        if self.colour:
            images = self._colour(images, *draws[:3])
        keep: Tensor | None = None  # (N, 1, H, W), False where a zero belongs
        row = torch.arange(height, device=images.device)[:, None]  # (H, 1)
        column = torch.arange(width, device=images.device)  # (W,)
        if self.translation:
            from_row = row - _shift(draws[3], self.translation, height)  # (N, 1, H, 1)
            from_column = column - _shift(draws[4], self.translation, width)  # (N, 1, 1, W)
            keep = (from_row >= 0) & (from_row < height) & (from_column >= 0) & (from_column < width)
            first = torch.arange(num, device=images.device).view(-1, 1, 1, 1) * height
            source = (first + from_row.clamp(0, height - 1)) * width + from_column.clamp(0, width - 1)
            pixels = images.permute(0, 2, 3, 1).reshape(num * height * width, -1)  # free if channels last
            moved = pixels.index_select(0, source.flatten())  # needs no loop, unlike slices of a padded image
            images = moved.view(num, height, width, -1).permute(0, 3, 1, 2)
        if self.cutout:
            off_row = (row - (draws[5] * height).floor()).abs() * 2 >= self.cutout * height
            off_column = (column - (draws[6] * width).floor()).abs() * 2 >= self.cutout * width
            keep = off_row | off_column if keep is None else keep & (off_row | off_column)
        return images if keep is None else images * keep.to(images.dtype)

    def _colour(self, images: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
        # x+b, then s(x-m)+m, then c(x-M)+M, with pixel mean m and image mean M: cs x + c(1-s) m + (1-c) M + b
        b = ((brightness - 0.5) * self.colour).to(images.dtype)
        s = (1 + (saturation * 2 - 1) * self.colour).to(images.dtype)
        c = (1 + (contrast - 0.5) * self.colour).to(images.dtype)
        grey = images.mean(1, keepdim=True)
        return c * s * images + (c * (1 - s) * grey + ((1 - c) * grey.mean((2, 3), keepdim=True) + b))


def _shift(draw: Tensor, fraction: float, size: int) -> Tensor:
    largest = round(fraction * size)
    return (draw * (2 * largest + 1)).floor().long() - largest
