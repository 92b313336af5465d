"""Kernel distance between two sets of features; of Inception features it is KID (Bińkowski et al. 2018)."""

from __future__ import annotations

import torch
from torch import Tensor


def kernel_distance(
    real: Tensor, fake: Tensor, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Mean and standard deviation, over random subsets, of the unbiased squared MMD with k(x, y) = (x.y / D + 1)^3.

    real: (N, D), fake: (M, D). Subsets of min(subset_size, N, M) rows of each set, without repetition, are drawn by
    seed; the global random state is not touched. The mean estimates the same whatever the number of images, and may be
    negative. The deviation is 0 where a subset is the whole set. Gretton et al. 2012, equation 3:
    sum_{i != j} (k(x_i, x_j) + k(y_i, y_j)) / (n (n - 1)) - 2 sum_{i, j} k(x_i, y_j) / n^2.

    Memory: a few matrices of subset_size^2 and of subset_size x D doubles. ValueError for fewer than two rows in a set.
    """
    size = min(subset_size, len(real), len(fake))
    if size < 2 or subsets < 1:
        raise ValueError(f"{subsets} subsets of {len(real)} and {len(fake)} features: expected at least 1, 2 and 2")
    generator = torch.Generator().manual_seed(seed)

    def draw(features: Tensor) -> Tensor:
        rows = torch.randperm(len(features), generator=generator)[:size]
        return features[rows.to(features.device)].double()

    distances = torch.stack([_mmd2(draw(real), draw(fake)) for _ in range(subsets)])
    return distances.mean().item(), distances.std(correction=0).item()


def _mmd2(x: Tensor, y: Tensor) -> Tensor:
    n = len(x)
    within = sum(k.sum() - k.diagonal().sum() for k in (_kernel(x, x), _kernel(y, y)))
    return within / (n * (n - 1)) - 2 * _kernel(x, y).mean()


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    product = (x @ y.T).div_(x.shape[1]).add_(1)
    return product * product * product  # pow(3) is several times slower
