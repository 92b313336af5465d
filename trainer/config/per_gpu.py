"""images_per_gpu=32: the batch grows with the GPUs, and the learning rates with it, by a stated rule."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from trainer.size import Size

BUSY = 1 << 16  # pixels that a GPU is given in a step, below which its kernels take as long with fewer


def apply(cfg: DictConfig, ranks: int, going_on: int | None) -> str:
    """Sets data.batch_size to images_per_gpu of each rank, and learning rates to go with the root of the batch; a line.

    lr = lr_0 sqrt(B / B_0) keeps the noise of Adam's steps what it was (Malladi et al. 2022, "On the SDEs and Scaling
    Rules for Adaptive Gradient Algorithms", eq. 3, whose change of betas and eps is left out), with B_0 and lr_0 as the
    configuration has them. What goes by images (kimg, EMA, schedules) stays.
    going_on: the batch of the run that goes on, which keeps it on any number of GPUs.
    """
    before, batch = cfg.data.batch_size, going_on or cfg.images_per_gpu * ranks
    factor = (batch / before) ** 0.5
    cfg.data.batch_size = batch
    found = [(optimizer, float(optimizer.lr)) for optimizer in optimizers(cfg.objective)]  # one may refer to another
    for optimizer, lr in found:
        optimizer.lr = lr * factor
    cfg.images_per_gpu = None  # it is done: a resume finds a batch
    return f"batches of {batch} images, learning rates x {factor:.3g}, the root of {batch} / {before}"


def optimizers(node: Any) -> Iterator[DictConfig]:
    """The nodes below one that have a learning rate."""
    if not isinstance(node, DictConfig) or node._is_none() or node._is_missing():
        return
    for key in node:
        if not OmegaConf.is_missing(node, key):
            yield from optimizers(node[key])
    if "lr" in node and node.lr is not None:
        yield node


def idle(cfg: DictConfig, ranks: int) -> str:
    """A line where so many GPUs have too few images each; '' elsewhere."""
    if ranks == 1 or cfg.trainer.accelerator == "cpu":
        return ""
    images, size = cfg.data.batch_size / ranks, Size.of(cfg.data.resolution)
    if images * math.prod(size) >= BUSY:
        return ""
    enough = -(-BUSY // math.prod(size))
    return (
        f"data.batch_size={cfg.data.batch_size} on {ranks} GPUs is {images:g} images of {size} pixels each: too "
        f"few to keep one busy; images_per_gpu={enough} gives each more"
    )
