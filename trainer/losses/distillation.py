"""How far a student's images are from its teacher's: functions (N, ...) -> (N,)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def pixel_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """(N,) mean |student - teacher| of images (N, 3, H, W) in [-1, 1]."""
    return (student - teacher).abs().flatten(1).mean(1)


def feature_distance(student: Tensor | Sequence[Tensor], teacher: Tensor | Sequence[Tensor]) -> Tensor:
    """(N,) mean over maps of |f - g|^2 / |g|^2, f and g the maps (N, C, H, W) of student and teacher, or one of each.

    Every map counts alike, whatever its scale (FitNets, Romero et al. 2015; a perceptual loss, Johnson et al. 2016).
    """
    if isinstance(student, Tensor):
        return feature_distance([student], [teacher])  # type: ignore[list-item]
    pairs = ((f.float(), g.float()) for f, g in zip(student, teacher, strict=True))  # fp16 has no room for squares
    total = sum(
        (f - g).square().flatten(1).sum(1) / g.square().flatten(1).sum(1).clamp(min=1e-8) for f, g in pairs
    )
    return total / len(teacher)
