"""Captions and seeds to images, for grids, metrics and users alike: one seed is one image, whoever asks."""

from __future__ import annotations

import functools
import itertools
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
        self.device = next(itertools.chain(objective.parameters(), objective.buffers())).device
        wanted = batch_size or (ROWS if self.device.type == "cpu" else 64)
        self.batch_size = -(-wanted // ROWS) * ROWS
        # one by one, because a caption encoded among others may round differently
        self.condition = functools.lru_cache(maxsize=4096)(lambda caption: text([caption]))

    def __call__(self, captions: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """(N, 3, H, W) uint8 on the objective's device: image i of caption i and seed i (any int64)."""
        if len(captions) != len(seeds) or not captions:
            raise UserError(
                f"{len(captions)} captions and {len(seeds)} seeds: expected one seed a caption, at least one"
            )
        return self._in_parts(len(captions), lambda part: (self.latents(seeds[part]), self.conditions(captions[part])))

    def draw(self, latents: Tensor, condition: Condition) -> Tensor:
        """The same of latents (N, latent_channels) and N conditions that need not be of any seed or caption."""
        if len(latents) != len(condition.mask) or not len(latents):
            raise UserError(
                f"{len(latents)} latents and {len(condition.mask)} conditions: expected one of each, at least one"
            )
        return self._in_parts(len(latents), lambda part: (latents[part], condition.rows(part)))

    def latents(self, seeds: Sequence[int]) -> Tensor:
        """(N, latent_channels) standard normal, on the CPU and so the same on every device."""
        return noise.normal(SEED, "sample", torch.tensor([*seeds]), self.objective.latent_channels)

    def conditions(self, captions: Sequence[str]) -> Condition:
        """Of N captions, on the CPU."""
        rows = [self.condition(caption) for caption in captions]
        return Condition(*(torch.cat([getattr(row, name) for row in rows]) for name in Condition._fields))

    @torch.no_grad()
    def _in_parts(self, count: int, inputs: Callable[[slice], tuple[Tensor, Condition]]) -> Tensor:
        training = [module for module in self.objective.modules() if module.training]
        self.objective.eval()
        try:
            with self.objective.ema_weights():
                parts = [slice(i, min(i + self.batch_size, count)) for i in range(0, count, self.batch_size)]
                return torch.cat([self._full_batch(*inputs(part)) for part in parts])
        finally:
            for module in training:
                module.training = True

    def _full_batch(self, latents: Tensor, condition: Condition) -> Tensor:
        index = [*range(len(latents)), *[0] * (self.batch_size - len(latents))]
        filled = latents[index].to(self.device), condition.rows(index).to(self.device)
        images = self.objective.sample(*filled)[: len(latents)]
        return images.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def mixed(condition: Condition, weights: Tensor) -> Condition:
    """M conditions between N: row m is their sum by weights[m]. weights: (M, N), as [[1, 0], [0.5, 0.5], [0, 1]].

    A token counts where one with weight has it. UserError where tokens are ids: a text encoder that trains with the
    model has no features outside of it.
    """
    if not condition.tokens.is_floating_point():
        raise UserError("captions of a text encoder that trains with the model do not mix; train with text=minilm")
    weights = weights.to(condition.pooled)
    tokens = torch.einsum("mn,nld->mld", weights, condition.tokens * condition.mask[..., None])
    mask = ((weights != 0).float() @ condition.mask.float()) > 0
    return Condition(tokens, mask, weights @ condition.pooled)
