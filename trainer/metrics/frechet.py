"""The Fréchet distance between two sets of features, from moments that add up.

Dowson & Landau 1982, equation 5; on features of images: Heusel et al. 2017, equation 6.
Two sets of 10,000 x 2,048 features: see tests/metrics/time_frechet.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

_ROWS, _COLUMNS = 1024, 256  # of a block in float64 as it is multiplied


def moments(features: Tensor, sums: Tensor | None = None) -> Tensor:
    """(D + 1, D + 1) float64 on the CPU: [1, x] [1, x]^T summed over features (N, D): number, sum and products.

    Only the upper triangle counts, as the matrix is symmetric: what is below the diagonal may be missing.
    Moments of sets add up to those of their union: N images cost the memory of one buffer, and ranks one all-reduce.
    sums: moments to which these are added in place, instead of a new matrix.
    """
    width = features.shape[1]
    sums = torch.zeros(width + 1, width + 1, dtype=torch.float64) if sums is None else sums
    products = sums[1:, 1:]
    for part in features.detach().cpu().split(_ROWS):
        rows = part.double()
        sums[0, 0] += len(rows)
        sums[0, 1:] += rows.sum(0)
        for start in range(0, width, _COLUMNS):
            stop = start + _COLUMNS
            products[start:stop, start:].addmm_(rows[:, start:stop].T, rows[:, start:])
    return sums


def mean_and_covariance(moments: Tensor) -> tuple[Tensor, Tensor]:
    """(D,) and unbiased (D, D). ValueError for fewer than two samples, or features that are not finite."""
    count = moments[0, 0]
    if count < 2:
        raise ValueError(f"a covariance needs at least 2 samples, got {int(count)}")
    if not moments.isfinite().all():
        raise ValueError("features are infinite or not a number: no distance can be told from them")
    mean = moments[0, 1:] / count
    upper = torch.addr(moments[1:, 1:], mean, mean, alpha=-count.item()).div_(count - 1).triu_()
    return mean, upper + upper.triu(1).T


def square_root(covariance: Tensor) -> Tensor:
    """F (D, R) with F F^T = covariance (D, D), which may be singular: R is its rank then, else D. Lower triangular.

    Cholesky, and where that fails, as for fewer than D images, Cholesky with pivoting (Higham 1990), triangular up to
    the order of its rows. It ends when no variance is left but rounding, so R columns cost R^2 D operations.
    """
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if not failed:
        return factor
    left = covariance.diagonal().clone()  # variance that the columns so far do not explain
    nothing = left.max() * len(left) * torch.finfo(left.dtype).eps
    columns = torch.zeros_like(covariance)  # each in a row of memory
    for rank in range(len(left)):
        pivot = int(left.argmax())
        if left[pivot] <= nothing:
            return columns[:rank].T
        known = columns[:rank]
        columns[rank] = (covariance[pivot] - known[:, pivot] @ known) / left[pivot].sqrt()
        left -= columns[rank].square()
        left[pivot] = 0  # exactly, so that it is not chosen again
    return columns.T


def frechet_distance(
    mean1: Tensor, covariance1: Tensor, mean2: Tensor, covariance2: Tensor, root1: Tensor | None = None
) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^1/2), at least 0.

    Means (D,) and covariances (D, D) in float64; they may be singular, as those of fewer than D images are. With
    S1 = F F^T the eigenvalues of S1 S2 are those of F^T S2 F, which is symmetric: no general matrix root is needed.
    root1: `square_root(covariance1)`, if it serves several times. Memory: five matrices of D x D.
    """
    root1 = square_root(covariance1) if root1 is None else root1
    values = torch.linalg.eigvalsh(_lower_product(covariance2, root1))
    # Zero eigenvalues come out as noise of 1e-16 of the largest, of either sign: their roots add 1e-8 of its root each.
    roots = values.clamp(min=0).sqrt()
    distance = (mean1 - mean2).square().sum() + covariance1.trace() + covariance2.trace() - 2 * roots.sum()
    return max(0.0, distance.item())


def _lower_product(symmetric: Tensor, root: Tensor) -> Tensor:
    """The lower triangle of F^T S F (R, R) for S (D, D) and F (D, R): what eigvalsh reads, for half of the work."""
    right = symmetric @ root
    product = torch.zeros(root.shape[1], root.shape[1], dtype=root.dtype)
    for start in range(0, len(product), _COLUMNS):
        stop = start + _COLUMNS
        product[start:stop, :stop] = root[:, start:stop].T @ right[:, :stop]
    return product
