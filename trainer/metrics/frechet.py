"""The Fréchet distance between two sets of features, from moments that add up.

Dowson & Landau 1982, equation 5; on features of images: Heusel et al. 2017, equation 6.
"""

from __future__ import annotations

import torch
from torch import Tensor


def moments(features: Tensor) -> Tensor:
    """(D + 1, D + 1) float64 on the CPU: [1, x] [1, x]^T summed over features (N, D): number, sum and products.

    Moments of sets add up to those of their union: N images cost the memory of one buffer, and ranks one all-reduce.
    """
    ones = torch.ones(len(features), 1, dtype=torch.float64)
    rows = torch.cat([ones, features.detach().to("cpu", torch.float64)], 1)
    return rows.T @ rows


def mean_and_covariance(moments: Tensor) -> tuple[Tensor, Tensor]:
    """(D,) and unbiased (D, D). ValueError for fewer than two samples."""
    count = moments[0, 0]
    if count < 2:
        raise ValueError(f"a covariance needs at least 2 samples, got {int(count)}")
    mean = moments[0, 1:] / count
    return mean, (moments[1:, 1:] - count * torch.outer(mean, mean)) / (count - 1)


def square_root(covariance: Tensor) -> Tensor:
    """The symmetric R with R R = covariance (D, D), which may be singular."""
    # Of a symmetric positive matrix this is the eigendecomposition; eigh itself gives up on some singular ones.
    vectors, values, _ = torch.linalg.svd(covariance)
    return (vectors * values.sqrt()) @ vectors.T


def frechet_distance(
    mean1: Tensor, covariance1: Tensor, mean2: Tensor, covariance2: Tensor, root1: Tensor | None = None
) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2), at least 0.

    Means (D,) and covariances (D, D) in float64; they may be singular, as those of fewer than D images are. The product
    is symmetric, so its eigenvalues are real and no general matrix root is needed.
    root1: `square_root(covariance1)`, if it serves several times.
    """
    root1 = square_root(covariance1) if root1 is None else root1
    product = root1 @ covariance2 @ root1
    values = torch.linalg.eigvalsh((product + product.T) / 2)
    # Zero eigenvalues come out as rounding noise, whose roots would add up: what is below their resolution is zero.
    values = values[values > values.max() * len(values) * torch.finfo(values.dtype).eps]
    distance = (mean1 - mean2).square().sum() + covariance1.trace() + covariance2.trace() - 2 * values.sqrt().sum()
    return max(0.0, distance.item())
