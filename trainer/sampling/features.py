"""Text features of captions made into those of others: averaged, joined, led away from a caption, between two."""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.batch import Condition
from trainer.errors import UserError


def mixed(condition: Condition, weights: Tensor) -> Condition:
    """M conditions between N: row m is their sum by weights[m]. weights: (M, N), as [[1, 0], [0.5, 0.5], [0, 1]].

    A token counts where one with weight has it. UserError where tokens are ids: a text encoder that trains with the
    model has no features outside of it.
    """
    require_features(condition)
    weights = weights.to(condition.pooled)
    tokens = torch.einsum("mn,nld->mld", weights, condition.tokens * condition.mask[..., None])
    mask = ((weights != 0).float() @ condition.mask.float()) > 0
    return Condition(tokens, mask, weights @ condition.pooled)


def joined(condition: Condition, weights: Tensor) -> Condition:
    """One condition of N: the words of all in a row, (1, L, D), and the sum of the pooled features by weights (N,).

    UserError where they are more than L words, of which no network of this model has ever seen more.
    """
    require_features(condition)
    words = condition.tokens[condition.mask]
    length = condition.mask.shape[1]
    if len(words) > length:
        raise UserError(
            f"compose=words: these {len(condition.mask)} captions have {len(words)} tokens, the model reads at most "
            f"text.max_tokens={length}; shorten them, or say compose=mean"
        )
    tokens = torch.zeros_like(condition.tokens[:1])
    tokens[0, : len(words)] = words
    mask = torch.arange(length, device=words.device)[None] < len(words)
    return Condition(tokens, mask, weights.to(condition.pooled)[None] @ condition.pooled)


def shifted(condition: Condition, negative: Condition, scale: float) -> Condition:
    """c + scale (c - n) of N conditions c and one n: pooled features each by itself, words all by one vector.

    As the words of two captions do not stand opposite each other, n and c are the means of their words there.
    """
    require_features(condition)
    away = scale * (mean_word(condition) - mean_word(negative))
    tokens = (condition.tokens + away[:, None]) * condition.mask[..., None]
    pooled = condition.pooled + scale * (condition.pooled - negative.pooled)
    return condition._replace(tokens=tokens, pooled=pooled)


def between(condition: Condition, at: Tensor) -> Condition:
    """M conditions on the way from the first to the second of two, at (M,) from 0 to 1.

    Words are averaged as in `mixed`, pooled features go along the arc (`slerp`). The ends are the two themselves.
    """
    words = mixed(condition, torch.stack([1 - at, at], 1))
    return words._replace(pooled=slerp(condition.pooled[0], condition.pooled[1], at))


def slerp(start: Tensor, end: Tensor, at: Tensor) -> Tensor:
    """(M, D) on the arc from start to end, (D,) each: (sin((1 - t) w) start + sin(t w) end) / sin(w), t in `at` (M,).

    w is the angle between them (Shoemake 1985). Normal latents keep their length on it, which a straight line cuts
    (White 2016). It is the straight line where both have one direction, or opposite ones.
    """
    a, b, t = start.double(), end.double(), at.double()[:, None]
    cosine = (a @ b / (a.norm() * b.norm()).clamp_min(1e-12)).clamp(-1, 1)
    angle = cosine.acos()
    if angle.sin() < 1e-6:
        return ((1 - t) * a + t * b).to(start)
    return (((1 - t) * angle).sin() / angle.sin() * a + (t * angle).sin() / angle.sin() * b).to(start)


def mean_word(condition: Condition) -> Tensor:
    """(N, D)."""
    mask = condition.mask[..., None]
    return (condition.tokens * mask).sum(1) / mask.sum(1)


def resized(condition: Condition, length: int) -> Condition:
    """The same with `length` places for tokens; those that are cut off or added are masked."""
    missing = length - condition.mask.shape[1]
    if missing <= 0:
        return condition.cut(length)
    tokens, mask = (
        torch.cat([part, part.new_zeros(len(part), missing, *part.shape[2:])], 1)
        for part in (condition.tokens, condition.mask)
    )
    return condition._replace(tokens=tokens, mask=mask)


def require_features(condition: Condition) -> None:
    """UserError where tokens are ids."""
    if not condition.tokens.is_floating_point():
        raise UserError(
            "captions of a text encoder within the model do not mix: train with text=minilm, and export with "
            "include_text=false"
        )
