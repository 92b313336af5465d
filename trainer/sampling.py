"""Captions and seeds to images, for grids, metrics and users alike: one seed is one image, whoever asks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from trainer import noise
from trainer.batch import Condition
from trainer.errors import UserError

ROWS = 16  # kernels choose another order of summation below this many rows, so smaller batches are filled up to it
SEED = 0  # a sampling seed means the same latent in every run, whatever seed that was trained with


class Sampler:
    """Draws from an objective on the device it is on, in eval mode, with its EMA weights where it has any.

    text: the text encoder, captions -> Condition. batch_size: images at a time, rounded up to a multiple of 16; 16 on a
    CPU and 64 on a GPU if None. The network always sees full batches of that size, the last one filled up with copies:
    an image then does not depend on how many are asked for. On CPUs it does not depend on batch_size either (measured
    bit for bit); on a GPU another batch_size may choose other kernels, which round differently.
    """

    def __init__(self, objective: Any, text: Callable[[Sequence[str]], Condition], batch_size: int | None = None):
        if batch_size is not None and batch_size < 1:
            raise UserError(f"batch_size={batch_size}: expected 1 or more images at a time")
        self.objective = objective
        self.device = next(objective.parameters()).device
        wanted = batch_size or (ROWS if self.device.type == "cpu" else 64)
        self.batch_size = -(-wanted // ROWS) * ROWS
        # one by one, because a caption encoded among others may round differently
        self.condition = functools.lru_cache(maxsize=4096)(lambda caption: text([caption]))

    @torch.no_grad()
    def __call__(self, captions: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """(N, 3, H, W) uint8 on the objective's device: image i of caption i and seed i (any int64)."""
        if len(captions) != len(seeds) or not captions:
            raise UserError(
                f"{len(captions)} captions and {len(seeds)} seeds: expected one seed a caption, at least one"
            )
        training = [module for module in self.objective.modules() if module.training]
        self.objective.eval()
        try:
            with self.objective.ema_weights():
                return torch.cat(
                    [
                        self._draw(captions[i : i + self.batch_size], seeds[i : i + self.batch_size])
                        for i in range(0, len(captions), self.batch_size)
                    ]
                )
        finally:
            for module in training:
                module.training = True

    def _draw(self, captions: Sequence[str], seeds: Sequence[int]) -> Tensor:
        missing = self.batch_size - len(captions)
        rows = [self.condition(caption) for caption in [*captions, *[captions[0]] * missing]]
        parts = ([getattr(row, name) for row in rows] for name in ("tokens", "mask", "pooled"))
        condition = Condition(*map(torch.cat, parts)).to(self.device)
        position = torch.tensor([*seeds, *[0] * missing])
        latent = noise.normal(SEED, "sample", position, self.objective.latent_channels)  # on the CPU, the same for all
        images = self.objective.sample(latent.to(self.device), condition)[: len(captions)]
        return images.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
