"""Learning-rate schedules: images seen -> factor. No state, so nothing to save and nothing to lose in a resume."""

from __future__ import annotations

import math

from trainer.errors import UserError


def constant(images: float, warmup_kimg: float = 0.0) -> float:
    """1 after a linear warm-up."""
    return min(1.0, (images / 1000 + 1e-9) / warmup_kimg) if warmup_kimg else 1.0


def linear(images: float, kimg: float, start: float = 0.5, final: float = 0.0, warmup_kimg: float = 0.0) -> float:
    """1 until the fraction `start` of the budget `kimg`, [0, 1], then down to `final` in a straight line."""
    if not 0 <= start <= 1:
        raise UserError(f"objective.schedule.start={start}: expected a fraction of the budget in [0, 1]")
    progress = min(1.0, max(0.0, (images / 1000 / kimg - start) / max(1 - start, 1e-12)))
    return constant(images, warmup_kimg) * (1 - (1 - final) * progress)


def cosine(images: float, kimg: float, final: float = 0.0, warmup_kimg: float = 0.0) -> float:
    """Half a cosine from 1 to `final` over the budget `kimg` (Loshchilov & Hutter 2017)."""
    progress = min(1.0, images / 1000 / kimg)
    return constant(images, warmup_kimg) * (final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2)
