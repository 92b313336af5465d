"""Sources to try a network with."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer import noise
from trainer.size import Size
from trainer.tasks.base import per_image


def source_size(network: Any) -> Size:
    """Of the sources that a network of an image task learned with."""
    return Size.of(network.resolution).over(network.task.scale)


def examples(network: Any, position: Tensor) -> Tensor | None:
    """Sources (N, C, h, w) of soft random pictures, by positions (N,), on the CPU; None where there is no task.

    Every second is none, where a network draws without.
    """
    task = getattr(network, "task", None)
    if task is None:
        return None
    coarse = noise.normal(0, "examples", position, 3 * 8 * 8).view(-1, 3, 8, 8)
    size = Size.of(network.resolution)
    source: Tensor = task.marked(task(F.interpolate(coarse, size=size, mode="bicubic").clamp(-1, 1), 0, position))
    if not task.source_dropout:
        return source
    return torch.where(per_image(position % 2 == 1), task.nothing(1, source.shape[2:]), source)
