"""A map made twice as large by nearest resizing and a 3x3 convolution, without convolving what was merely repeated."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Enlarge(nn.Sequential):
    """(N, a, H, W) -> (N, b, 2H, 2W). Resizing leaves none of the checkerboards of transposed convolutions that learn
    their 16 taps freely (Odena et al. 2016).
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(nn.Upsample(scale_factor=2), nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return enlarged(x, self[1])


def enlarged(x: Tensor, conv: nn.Module) -> Tensor:
    """conv of x (N, a, H, W) enlarged, (N, b, 2H, 2W); conv has 3x3 taps and a padding of 1.

    While it trains it is a transposed convolution of x: the same up to rounding, at 4/9 of the multiply-adds forward
    and backward. Where images are drawn it stays as it is written, as `compress` with `fold` knows something faster;
    under stage 3 of ZeRO, too, whose weights (with a ds_id) are whole only while the module that holds them is called.
    """
    if conv.training and type(conv) is nn.Conv2d and not hasattr(conv.weight, "ds_id"):
        return F.conv_transpose2d(x, merged(conv.weight), conv.bias, stride=2, padding=1)
    return conv(F.interpolate(x, scale_factor=2))


def merged(weight: Tensor) -> Tensor:
    """Taps (a, b, 4, 4) of the transposed convolution from those (b, a, 3, 3) of one that sees each pixel twice.

    In each direction pixel i reaches 2i - 1 to 2i + 2; its copies 2i and 2i + 1 reach them by the taps (2), (1, 2),
    (0, 1) and (0), which are added.
    """
    taps = F.pad(weight.transpose(0, 1).flip(2, 3), (1, 1, 1, 1))
    rows = taps[:, :, 1:] + taps[:, :, :-1]
    return rows[..., 1:] + rows[..., :-1]
