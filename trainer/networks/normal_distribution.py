"""Phi of the normal distribution and its logarithm in float64, of arithmetic and `exp` alone.

torch.special.ndtr and log_ndtr are erf and erfcx, of which ONNX has the one in float32 and the other not at all.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

DEGREE = 24  # Phi differs from torch.special.ndtr by less than 1e-15


def chebyshev(degree: int) -> list[float]:
    """Coefficients of erfcx(z) / t on t = 2 / (2 + z) in (0, 1], interpolated at Chebyshev's nodes."""
    number = torch.arange(degree, dtype=torch.float64, device="cpu")  # wherever what imports this is being built
    node = math.pi * (number + 0.5) / degree
    t = (node.cos() + 1) / 2
    values = torch.special.erfcx(2 / t - 2) / t
    found = torch.cos(number[:, None] * node) @ values * 2 / degree
    return [found[0].item() / 2, *found[1:].tolist()]


SERIES = chebyshev(DEGREE)


def log_cdf(normals: Tensor) -> tuple[Tensor, Tensor]:
    """(Phi(x), log Phi(x)) of any shape, in float64; the logarithm to 1e-12 of itself, in both tails."""
    normals = normals.double()
    z = normals.abs() * math.sqrt(0.5)
    t = 2 / (2 + z)
    u, later, last = 4 * t - 2, torch.zeros_like(t), torch.zeros_like(t)
    for each in SERIES[:0:-1]:  # Clenshaw's sum
        later, last = u * later - last + each, later
    half = 0.5 * t * (0.5 * u * later - last + SERIES[0])
    tail = half * (-z * z).exp()  # erfc(z) / 2, which is Phi(-|x|)
    near_one = -tail * (1 + tail * (0.5 + tail * (1 / 3 + tail / 4)))  # log(1 - tail), of which 1 would leave nothing
    above = torch.where(tail < 1e-4, near_one, (1 - tail).log())
    below = normals < 0
    return torch.where(below, tail, 1 - tail), torch.where(below, half.log() - z * z, above)
