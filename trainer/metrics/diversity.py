"""How much samples of one caption differ. 0: the model draws one image a caption."""

from __future__ import annotations

import torch
from torch import Tensor


def pairwise_distance(features: Tensor) -> Tensor:
    """Mean Euclidean distance, () float64, of the K (K - 1) / 2 pairs of features (K, D) of one caption's samples.

    The diversity of a model is its mean over captions: add up (distance, 1) a caption, over captions and ranks.
    ValueError for fewer than two samples.
    """
    if len(features) < 2:
        raise ValueError(f"a pair needs 2 samples of a caption, got {len(features)}")
    return torch.pdist(features.double()).mean()  # of differences, not of products, so near twins keep their digits
