"""What happens to pictures on their way to us: blur, noise, a smaller size, JPEG. Batches on their device, a strength a
sample.

In the order of Real-ESRGAN (Wang et al. 2021): blur, resize, noise, JPEG.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

# ITU-T T.81, Annex K: of luma and of chroma, at quality 50
LUMA_STEPS = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA_STEPS = ((17, 18, 24, 47), (18, 21, 26, 66), (24, 26, 56, 99), (47, 66, 99, 99))  # 99 beyond
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def luma(image: Tensor) -> Tensor:
    """(N, 3, H, W) to (N, 1, H, W), in the same range."""
    red, green, blue = (weight * plane for weight, plane in zip(LUMA, image.unbind(1), strict=True))
    return (red + green + blue)[:, None]


def blurred(image: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of (N, C, H, W) by sigma (N,) pixels, 0 for none, the edge repeated.

    Taps end at 9 pixels: three times a sigma of 3.
    """
    radius = 9
    distance = torch.arange(-radius, radius + 1, device=image.device, dtype=image.dtype)
    taps = torch.exp(-0.5 * (distance / sigma[:, None].clamp(min=1e-3)) ** 2)
    taps = taps / taps.sum(1, keepdim=True)
    n, channels, height, width = image.shape
    planes = F.pad(image, [radius] * 4, mode="replicate").reshape(1, n * channels, height + 2 * radius, -1)
    taps = taps.repeat_interleave(channels, 0)
    planes = F.conv2d(planes, taps[:, None, :, None], groups=n * channels)
    return F.conv2d(planes, taps[:, None, None, :], groups=n * channels).view(n, channels, height, width)


def smaller(image: Tensor, scale: int, kind: Tensor) -> Tensor:
    """(N, C, H, W) to (N, C, H / scale, W / scale): by area, bilinear, bicubic where kind (N,) is 0, 1, 2."""
    size = [side // scale for side in image.shape[2:]]
    area = F.avg_pool2d(image, scale)
    bilinear, bicubic = (
        F.interpolate(image, size=size, mode=mode, antialias=True) for mode in ("bilinear", "bicubic")
    )
    kind = kind.view(-1, 1, 1, 1)
    return torch.where(kind == 0, area, torch.where(kind == 1, bilinear, bicubic))


def blocks(plane: Tensor) -> Tensor:
    """(N, H, W) to (N, H / 8, W / 8, 8, 8)."""
    return plane.unflatten(1, (-1, 8)).unflatten(3, (-1, 8)).transpose(2, 3)


def quantized(plane: Tensor, steps: Tensor) -> Tensor:
    """(N, H, W), sides multiples of 8, with the cosine transform of each 8x8 block rounded to steps (N, 8, 8)."""
    place = torch.arange(8, device=plane.device, dtype=plane.dtype)
    cosine = torch.cos(math.pi / 8 * (place[None] + 0.5) * place[:, None]) / 2
    cosine = torch.cat([cosine[:1] * 0.5**0.5, cosine[1:]])
    steps = steps[:, None, None]
    coefficients = cosine @ blocks(plane) @ cosine.T
    found = cosine.T @ ((coefficients / steps).round() * steps) @ cosine
    return found.transpose(2, 3).flatten(3).flatten(1, 2)


@functools.cache
def tables(device: torch.device) -> tuple[Tensor, Tensor]:
    """(8, 8) of luma and of chroma, copied to a GPU once."""
    with torch.inference_mode(False):
        of_luma, of_chroma = (torch.tensor(each, dtype=torch.float32) for each in (LUMA_STEPS, CHROMA_STEPS))
        return of_luma.to(device), F.pad(of_chroma, (0, 4, 0, 4), value=99.0).to(device)


def quality_steps(table: Tensor, quality: Tensor) -> Tensor:
    """(N, 8, 8) quantization steps of quality (N,), 1 to 100, as of libjpeg: 50 is the table itself."""
    percent = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality).floor()
    return ((table * percent.view(-1, 1, 1) + 50) / 100).floor().clamp(1, 255)


def jpeg(image: Tensor, quality: Tensor) -> Tensor:
    """What a JPEG of quality (N,), 1 to 100, keeps of (N, 3, H, W) in [-1, 1]: baseline, chroma at half the size."""
    height, width = image.shape[2:]
    image = F.pad(image, (0, -width % 16, 0, -height % 16), mode="replicate")
    red, _, blue = (image * 127.5).unbind(1)  # about 0, as the transform takes them
    y = luma(image * 127.5)[:, 0]
    table, of_chroma = tables(image.device)
    chroma = torch.stack([(blue - y) * 0.564, (red - y) * 0.713], 1)
    halves = F.avg_pool2d(chroma, 2).flatten(0, 1)
    y = quantized(y, quality_steps(table, quality))
    steps = quality_steps(of_chroma, quality).repeat_interleave(2, 0)
    cb, cr = F.interpolate(quantized(halves, steps).unflatten(0, (-1, 2)), scale_factor=2, mode="bilinear").unbind(1)
    back = torch.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], 1)
    return (back / 127.5).clamp(-1, 1)[:, :, :height, :width]
