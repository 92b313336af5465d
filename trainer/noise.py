"""Random numbers as a pure function of (seed, stream, position).

One position draws the same numbers on any device, rank, micro-batch and after any resume, so nothing has to be saved or
synchronised. The bits are SplitMix64 (Steele et al. 2014) of a counter; normals are Box-Muller.
"""

from __future__ import annotations

import functools
import zlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX2 = 0x94D049BB133111EB - (1 << 64)
# numpy's own numbers, of which it makes no arrays in each call
_NP_GOLDEN, _NP_MIX1, _NP_MIX2 = np.array([_GOLDEN, _MIX1, _MIX2], np.int64).view(np.uint64)
_NP_30, _NP_27, _NP_31 = np.array([30, 27, 31], np.uint64)


def _mix(z: Tensor) -> Tensor:
    z = (z ^ ((z >> 30) & 0x3FFFFFFFF)) * _MIX1  # int64 arithmetic wraps; the masks make the shifts logical
    z = (z ^ ((z >> 27) & 0x1FFFFFFFFF)) * _MIX2
    return z ^ ((z >> 31) & 0x1FFFFFFFF)


def _mix_numpy(z: Any) -> Any:
    """The same of uint64, whose shifts are logical."""
    z = (z ^ (z >> _NP_30)) * _NP_MIX1
    z = (z ^ (z >> _NP_27)) * _NP_MIX2
    return z ^ (z >> _NP_31)


@functools.cache
def _start(seed: int, stream: str) -> Any:
    return _mix_numpy(np.array([seed], np.int64).view(np.uint64) * _NP_GOLDEN + np.uint64(zlib.crc32(stream.encode())))


@functools.cache
def _columns(count: int, device: torch.device) -> Any:
    if device.type == "cpu":
        return np.arange(1, count + 1, dtype=np.uint64) * _NP_GOLDEN
    return torch.arange(1, count + 1, device=device) * _GOLDEN  # made there: a copy would wait for all work before it


def bits(seed: int, stream: str, position: Tensor, count: int) -> Tensor:
    """(N, count) int64 with 64 random bits each, for (N,) int64 positions."""
    start = _start(seed, stream)
    column = _columns(count, position.device)
    if position.device.type == "cpu":  # for the few numbers of one image numpy is there in a fifth of the time
        row = _mix_numpy(start + position.numpy().view(np.uint64) * _NP_GOLDEN)
        return torch.from_numpy(_mix_numpy(row[:, None] + column).view(np.int64))
    row = _mix(int(start.view(np.int64)[0]) + position * _GOLDEN)
    return _mix(row[:, None] + column)


def uniform(seed: int, stream: str, position: Tensor, count: int) -> Tensor:
    """(N, count) float32, uniform in [0, 1)."""
    return ((bits(seed, stream, position, count) >> 40) & 0xFFFFFF).float() / (1 << 24)


def normal(seed: int, stream: str, position: Tensor, count: int) -> Tensor:
    """(N, count) float32, standard normal."""
    raw = bits(seed, stream, position, count)
    if raw.device.type == "cpu" and type(raw) is Tensor:  # numpy has all but logarithm and cosine sooner, to the bit
        whole = raw.numpy().view(np.uint64)
        logarithm = torch.from_numpy(((whole >> 32) + 1.0) * 2.0**-32).log_().numpy()
        logarithm *= -2
        radius = np.sqrt(logarithm, out=logarithm)
        radius *= torch.from_numpy((whole & 0xFFFFFFFF) * (torch.pi * 2.0**-31)).cos_().numpy()
        return torch.from_numpy(radius.astype(np.float32))
    radius = ((raw >> 32) & 0xFFFFFFFF).double().add_(1).div_(1 << 32)  # (0, 1], never log 0
    angle = (raw & 0xFFFFFFFF).double().div_(1 << 32)
    return radius.log_().mul_(-2).sqrt_().mul_(angle.mul_(2 * torch.pi).cos_()).float()
