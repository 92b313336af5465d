"""Bringing images to a network's input size: the same pixels as the protocols of the literature."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def bicubic(images: Tensor, size: int) -> Tensor:
    """(N, 3, size, size) float32 of values 0 to 255, unrounded: antialiased bicubic, Pillow's on float channels.

    The "clean" resizing of Parmar et al. 2022, section 3; overshoot beyond 0 and 255 stays.
    """
    pixels = images.float()
    if pixels.shape[-2:] == (size, size):
        return pixels
    return F.interpolate(pixels, size=(size, size), mode="bicubic", antialias=True)


def rounded_bicubic(images: Tensor, size: int) -> Tensor:
    """`bicubic` as Pillow does it on 8-bit pictures: whole numbers from 0 to 255, also between its two passes.

    What CLIP and DINOv2 are fed by their authors' code, and by Stein et al. 2023 for the DINOv2 Fréchet distance.
    """
    pixels = images.float()
    for shape in ((pixels.shape[2], size), (size, size)):  # along rows, then along columns
        if pixels.shape[-2:] != shape:
            pixels = F.interpolate(pixels, size=shape, mode="bicubic", antialias=True).round_().clamp_(0, 255)
    return pixels


def tf1_bilinear(images: Tensor, size: int) -> Tensor:
    """(N, 3, size, size) float32: TensorFlow 1's ResizeBilinear, as inside the Inception graph of the original FID.

    Output pixel i is read at input position i * in / out, corner on corner and not centre on centre, from its two
    neighbours: shifted by up to half a pixel, and aliased where it shrinks. As torch-fidelity; pytorch-fid's
    `F.interpolate` aligns centres, so that its figures differ.
    """
    pixels = images.float()
    for axis in (3, 2):
        length = pixels.shape[axis]
        at = torch.arange(size, device=pixels.device, dtype=torch.float32) * (length / size)
        low = at.long().clamp(max=length - 1)
        high = (low + 1).clamp(max=length - 1)
        share = (at - low).view(-1, *[1] * (3 - axis))
        pixels = torch.lerp(pixels.index_select(axis, low), pixels.index_select(axis, high), share)
    return pixels
