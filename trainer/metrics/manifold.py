"""Fidelity and variety apart: sets of images as balls around their features, each as wide as the way to a neighbour.

The ball of x reaches to the k-th nearest other feature of the same set, border included. Distances are Euclidean, found
in float64 and block by block: |x|^2 + |y|^2 - 2 x.y cancels where x and y are close, and what is left of float32 there
would be rounding. Memory besides the features: some blocks of 1024 x 1024 and 1024 x D doubles.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_BLOCK = 1024


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> tuple[float, float]:
    """Shares of fakes within some ball of a real, and of reals within some ball of a fake (Kynkäänniemi et al. 2019).

    real: (N, D), fake: (M, D), on one device. Equations 1 and 2. ValueError for fewer than k + 1 features in a set.
    """
    real_radius, fake_radius = _radii2(real, k), _radii2(fake, k)
    fake_inside, real_inside = (torch.zeros(len(x), dtype=torch.bool, device=x.device) for x in (fake, real))
    for i, j, distance2 in _blocks(real, fake):
        fake_inside[j] |= (distance2 <= real_radius[i, None]).any(0)
        real_inside[i] |= (distance2 <= fake_radius[None, j]).any(1)
    return fake_inside.double().mean().item(), real_inside.double().mean().item()


def density_coverage(real: Tensor, fake: Tensor, k: int = 5) -> tuple[float, float]:
    """Density and coverage (Naeem et al. 2020, equations 3 and 4).

    Density: in how many balls of reals a fake lies, over k, on average; it may exceed 1. Coverage: share of reals with
    a fake in their ball. For two large sets of one size and distribution they are 1 and 1 - 2^-k.
    real: (N, D), fake: (M, D), on one device. ValueError for fewer than k + 1 reals.
    """
    radius = _radii2(real, k)
    covered = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    pairs = torch.zeros((), dtype=torch.int64, device=real.device)
    for i, _, distance2 in _blocks(real, fake):
        inside = distance2 <= radius[i, None]
        covered[i] |= inside.any(1)
        pairs += inside.sum()
    return pairs.item() / (k * len(fake)), covered.double().mean().item()


def _radii2(features: Tensor, k: int) -> Tensor:
    """(N,) float64, squared distance of each feature to its k-th nearest other one."""
    if len(features) <= k:
        raise ValueError(f"the neighbour number {k} of {len(features)} features: expected at least {k + 1}")
    nearest = torch.full((len(features), k), torch.inf, dtype=torch.float64, device=features.device)
    for i, j, distance2 in _blocks(features, features):
        if i == j:
            distance2.fill_diagonal_(torch.inf)
        known = torch.cat([nearest[i], distance2], 1)
        nearest[i] = known.topk(k, largest=False).values
    return nearest.max(1).values


def _blocks(x: Tensor, y: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Squared distances (n, m) float64 of x[i] to y[j], for slices i and j that together make up all pairs."""
    for start in range(0, len(x), _BLOCK):
        i = slice(start, start + _BLOCK)
        rows = x[i].double()
        norms = rows.square().sum(1, keepdim=True)
        for begin in range(0, len(y), _BLOCK):
            j = slice(begin, begin + _BLOCK)
            columns = y[j].double()
            scale = norms + columns.square().sum(1)
            distance2 = torch.addmm(scale, rows, columns.T, alpha=-2)
            # Equal features come out as rounding noise of the norms: they shall be equally near in every block.
            yield i, j, distance2.masked_fill_(distance2 < 1e-13 * scale, 0)
