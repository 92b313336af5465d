"""Inception Score, from sums that add up over batches and ranks."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from trainer import noise


def score_sums(logits: Tensor, numbers: Tensor, total: int, splits: int = 10) -> Tensor:
    """(splits, C + 2) float64 on the CPU: of each split the number of images, sum p log p over classes, and sum p.

    logits: (N, C), p their softmax. numbers: (N,) of the images among `total`, which are dealt to the splits without
    pattern: samples may be sorted by caption, and a split of few classes has a low score whatever they look like. An
    image has its split whatever its rank or the order of arrival. ValueError for fewer images than splits.
    """
    if total < splits:
        raise ValueError(f"{total} images in {splits} splits: expected at least one image in each")
    log_p = logits.detach().to("cpu", torch.float64).log_softmax(1)
    p = log_p.exp()
    rows = torch.cat([torch.ones(len(p), 1, dtype=p.dtype), (p * log_p).sum(1, keepdim=True), p], 1)
    sums = torch.zeros(splits, rows.shape[1], dtype=p.dtype)
    return sums.index_add_(0, _dealt(total, splits)[numbers.cpu()], rows)


@lru_cache(maxsize=1)
def _dealt(total: int, splits: int) -> Tensor:
    """(total,) split of each image; all splits of one size, or one more."""
    order = noise.bits(0, "inception score", torch.arange(total), 1)[:, 0].argsort()
    return torch.empty_like(order).scatter_(0, order, torch.arange(total) % splits)


def inception_score(sums: Tensor) -> tuple[float, float]:
    """Mean and standard deviation over splits of exp(mean KL(p(y|x) || p(y))) (Salimans et al. 2016, section 4).

    sums: of `score_sums`, over all images. KL = mean of sum p log p - sum q log q, where q is the mean of p in a split.
    The deviation is that of these splits, divided by their number, as in the authors' code.
    """
    count, negative_entropy, total = sums[:, 0], sums[:, 1], sums[:, 2:]
    marginal = total / count[:, None]
    scores = (negative_entropy / count - torch.xlogy(marginal, marginal).sum(1)).exp()
    return scores.mean().item(), scores.std(correction=0).item()
