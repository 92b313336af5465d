"""Convolutions that a style scales, and resampling without aliases (Karras et al. 2020, "StyleGAN2")."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LowPass(nn.Module):
    """The separable filter [1, 3, 3, 1] / 8 in both directions, with zeros beyond the border (Zhang 2019).

    (N, C, H, W) -> (N, C, H - 3 + 2 padding, ...), every `stride`-th pixel. As one depthwise convolution: on a CPU it
    takes half the time of two of one direction, and a tenth of sums of slices.
    """

    kernel: Tensor

    def __init__(self, padding: int = 1, stride: int = 1):
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("kernel", taps.outer(taps)[None, None], persistent=False)
        self.padding, self.stride = padding, stride

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        return F.conv2d(x, self.kernel.expand(channels, -1, -1, -1), None, self.stride, self.padding, groups=channels)


class Enlarge(LowPass):
    """(N, C, H, W) -> (N, C, 2H, 2W): zeros between the pixels, then the filter, four times as strong.

    Beyond the border its pixels go on, so that this is bilinear interpolation; zeros would make every edge grey.
    """

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        kernel = 4 * self.kernel.expand(channels, -1, -1, -1)
        if torch.compiler.is_compiling() and torch.is_grad_enabled():  # 2.13 mistakes the layout of a pad's gradient
            x = torch.cat([x[:, :, :1], x, x[:, :, -1:]], 2)
            x = torch.cat([x[..., :1], x, x[..., -1:]], 3)
        else:
            x = F.pad(x, (1, 1, 1, 1), mode="replicate")
        return F.conv_transpose2d(x, kernel, stride=2, padding=3, groups=channels)


class ModulatedConv(nn.Module):
    """Convolution with weights w (O, I, k, k) of which a style has each sample's own, by factors s (N, I).

    w'_oikl = s_i w_oikl (eq. 1), and where `demodulate`, w''_oikl = w'_oikl / sqrt(sum_ikl w'_oikl^2 + 1e-8) (eq. 3).
    Both factors leave the sum: inputs are scaled by s, outputs by the root, and one ordinary convolution serves all
    samples. up: twice the size, by a transposed convolution and the filter.
    (N, I, H, W), (N, I) -> (N, O, H, W) or (N, O, 2H, 2W).
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 3, demodulate: bool = True, up: bool = False
    ):
        super().__init__()
        fan_in = in_channels * kernel_size**2
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size) * fan_in**-0.5)
        self.demodulate = demodulate
        self.filter = LowPass() if up else None

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        x = x * scale[:, :, None, None]
        if self.filter is None:
            x = F.conv2d(x, self.weight, padding=self.weight.shape[2] // 2)
        else:  # 2H + 1 wide, which the filter brings to 2H; it is strong enough for a quarter of the pixels
            x = self.filter(F.conv_transpose2d(x, 4 * self.weight.transpose(0, 1), stride=2))
        if self.demodulate:
            x = x * root_of_energy(scale, self.weight.square().sum((2, 3)))[:, :, None, None].to(x.dtype)
        return x


def root_of_energy(scale: Tensor, energy: Tensor) -> Tensor:
    """(N, O) factors 1 / sqrt(sum_i s_i^2 e_oi + 1e-8) of scales s (N, I) and squared norms e (O, I) of kernels."""
    return (F.linear(scale.square(), energy).float() + 1e-8).rsqrt().to(scale.dtype)  # fp16 has no 1e-8


class StyledConv(nn.Module):
    """Modulated 3x3 convolution, noise of each pixel with a learned strength, bias, leaky ReLU of unit gain.

    (N, I, H, W), (N, S), noise (N, 1, H', W') or None -> (N, O, H', W').
    """

    def __init__(self, in_channels: int, out_channels: int, style_channels: int, up: bool = False, noise: bool = False):
        super().__init__()
        self.style = unit_bias(nn.Linear(style_channels, in_channels))
        self.conv = ModulatedConv(in_channels, out_channels, up=up)
        self.strength = nn.Parameter(torch.zeros(1)) if noise else None
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor, style: Tensor, noise: Tensor | None = None) -> Tensor:
        x = self.conv(x, self.style(style))
        if self.strength is not None and noise is not None:
            x = x + (self.strength * noise).to(x.dtype)
        return F.leaky_relu(x + self.bias[:, None, None].to(x.dtype), 0.2) * 2**0.5


class StyledImage(nn.Module):
    """Maps to their share of the image: a 1x1 convolution, modulated but not demodulated ("toRGB").

    (N, C, H, W), (N, S) -> (N, 3, H, W).
    """

    def __init__(self, channels: int, style_channels: int):
        super().__init__()
        self.style = unit_bias(nn.Linear(style_channels, channels))
        self.conv = ModulatedConv(channels, 3, kernel_size=1, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        return self.conv(x, self.style(style)) + self.bias[:, None, None]


def unit_bias(layer: nn.Linear) -> nn.Linear:
    """A style that says nothing leaves a convolution as it is."""
    nn.init.ones_(layer.bias)
    return layer


def normalized(x: Tensor) -> Tensor:
    """(N, C) at unit mean square."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()
