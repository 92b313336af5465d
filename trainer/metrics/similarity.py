"""How like two images are, pixel by pixel: (N,) for pairs of uint8 batches (N, C, H, W), levels 0 to 255."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_AT_ONCE = 16  # images, for their maps are doubles


def psnr(images: Tensor, references: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (N,) in dB: 10 log10(255^2 / mean (x - y)^2); infinite for equal images."""
    _check(images, references)
    error = (images.double() - references.double()).square().flatten(1).mean(1)
    return 10 * (255**2 / error).log10()


def ssim(images: Tensor, references: Tensor) -> Tensor:
    """Structural similarity (N,), at most 1 (Wang et al. 2004, equation 13), mean over channels and windows.

    (2 mx my + C1)(2 sxy + C2) / ((mx^2 + my^2 + C1)(sx^2 + sy^2 + C2)), C1 = (0.01 255)^2, C2 = (0.03 255)^2, with
    moments weighted by a Gaussian window of 11 x 11, sigma 1.5, at all places where it fits in whole. Colours count
    alike; the paper looks at grey levels only. ValueError for images smaller than the window.
    """
    _check(images, references)
    if min(images.shape[-2:]) < 11:
        raise ValueError(f"SSIM looks through windows of 11 x 11: got images of {tuple(images.shape[-2:])}")
    parts = zip(images.split(_AT_ONCE), references.split(_AT_ONCE), strict=True)
    return torch.cat([_ssim(x.double(), y.double()) for x, y in parts])


def _ssim(x: Tensor, y: Tensor) -> Tensor:
    mean_x, mean_y, xx, yy, xy = (_blur(each) for each in (x, y, x * x, y * y, x * y))
    var_x, var_y, covariance = xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    likeness = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return (likeness / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).flatten(1).mean(1)


def _blur(x: Tensor) -> Tensor:
    """Weighted means (N, C, H - 10, W - 10); a Gaussian is the product of one along each axis."""
    window = torch.exp(-0.5 * (torch.arange(-5, 6, dtype=x.dtype, device=x.device) / 1.5) ** 2)
    window = window / window.sum()
    flat = x.flatten(0, 1)[:, None]
    blurred = F.conv2d(F.conv2d(flat, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))
    return blurred.view(*x.shape[:2], *blurred.shape[-2:])


def _check(images: Tensor, references: Tensor) -> None:
    if images.shape != references.shape or images.dtype != torch.uint8 or references.dtype != torch.uint8:
        raise ValueError(
            f"expected two uint8 batches of one shape, got {images.dtype} {tuple(images.shape)} and "
            f"{references.dtype} {tuple(references.shape)}"
        )
