"""Images that a generator drew in earlier steps, for its discriminator (Shrivastava et al. 2017; CycleGAN's pool)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trainer import noise
from trainer.batch import Condition
from trainer.errors import UserError

Drawn = tuple[Tensor, Condition]  # images and what they were drawn for


class History:
    """`size` images, and the conditions that they were drawn for: features in float16, as which data have them.

    A new image is judged itself, or with probability 1/2 leaves its place to an older one and is kept instead. Which
    one hangs on positions of the stream alone, and all ranks keep the same images: they judge what one process would,
    and a resumed run does, as `state` goes into its checkpoint.
    """

    def __init__(self, size: int, seed: int, name: str):
        self.size, self.seed, self.name = size, seed, name
        self.state: list[Tensor | None] = []  # images, then what their condition has

    def exchange(self, drawn: Drawn, position: Tensor, images_seen: int, gather: Any) -> Drawn:
        """Images to be judged in place of those just drawn at these positions (N,), and their conditions.

        images_seen: before this step, over all ranks. gather: rows of this rank -> those of all.
        """
        parts: list[Tensor | None] = [drawn[0].detach(), *drawn[1]]
        if not self.state:
            kept = drawn[1].map(lambda part: part.half() if part.is_floating_point() else part)
            like = [parts[0], *kept]
            self.state = [None if part is None else part.new_zeros(self.size, *part.shape[1:]) for part in like]
        self.state = [None if part is None else part.to(position.device) for part in self.state]
        stream, full = f"history/{self.name}", images_seen >= self.size
        first = images_seen % self.size
        if full:  # at a random place, in order from there: a batch never meets a slot twice
            first = int(noise.bits(self.seed, f"{stream}/slot", torch.tensor([images_seen]), 1)) % self.size
        slot = (first + position - images_seen) % self.size
        leaves = (noise.uniform(self.seed, stream, position, 1)[:, 0] < 0.5) & full
        slots, all_kept = gather(slot), gather(leaves | (not full))
        judged: list[Any] = []
        for number, part in enumerate(parts):
            pool = self.state[number]
            if part is None or pool is None:
                judged.append(None)
                continue
            older = pool[slot].to(part.dtype)
            judged.append(torch.where(per_row(leaves, part), older, part))
            rows = gather(part).to(pool.dtype)  # a checkpoint of before has all in float32, and goes on so
            pool[slots] = torch.where(per_row(all_kept, rows), rows, pool[slots])
        return judged[0], Condition(*judged[1:])

    def require_room(self, batch_size: int) -> None:
        """UserError where a batch would not fit."""
        if self.size < batch_size:
            raise UserError(f"objective.history={self.size}: expected at least data.batch_size={batch_size}, or 0")


def per_row(chosen: Tensor, rows: Tensor) -> Tensor:
    """(N,) bool for `torch.where` with rows (N, ...)."""
    return chosen.view(-1, *[1] * (rows.dim() - 1))
