"""Adaptive discriminator augmentation: as much of it as keeps the discriminator from knowing the training images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.errors import UserError
from trainer.networks.diffaugment import DiffAugment


class Adaptive(nn.Module):
    """DiffAugment's colour, shift and hole, each upon an image with probability p (Karras et al. 2020, "ADA").

    p follows how sure the discriminator is of real images, r = E sign(D(x)) (the paper's r_t), to hold it at `target`:
    p <- p + sign(r - target) * images / (1000 kimg), within [0, 1]: from 0 to 1 in `kimg` thousand images at least.
    r is that of the step before, over all ranks: p is a function of what a checkpoint holds, and the same on all ranks.
    """

    num_draws = DiffAugment.num_draws + 3
    probability: Tensor
    sureness: Tensor

    def __init__(
        self,
        colour: float = 1.0,
        translation: float = 0.125,
        cutout: float = 0.5,
        target: float = 0.6,
        kimg: float = 500.0,
    ):
        super().__init__()
        if not -1 <= target <= 1 or kimg <= 0:
            raise UserError(f"augment.target={target}, kimg={kimg}: expected a target from -1 to 1, and kimg above 0")
        self.parts = [DiffAugment(colour, 0, 0), DiffAugment(0, translation, 0), DiffAugment(0, 0, cutout)]
        self.target, self.kimg = target, kimg
        self.seen: list[Tensor] = []
        self.register_buffer("probability", torch.zeros(()))
        self.register_buffer("sureness", torch.tensor(float(target)))  # at it, p stays

    def forward(self, images: Tensor, uniform: Tensor) -> Tensor:
        """As `DiffAugment.forward`; the last three draws of a sample say which parts it meets."""
        for part, draw in zip(self.parts, uniform[:, -3:].unbind(1), strict=True):
            chosen = (draw < self.probability).view(-1, 1, 1, 1)
            images = torch.where(chosen, part(images, uniform[:, :-3]), images)
        return images

    def see(self, real_logits: Tensor) -> None:
        """Logits (N, ...) of a micro-batch of real images."""
        self.seen.append(real_logits.detach().float().sign().mean())

    def commit(self, num_images: int) -> None:
        """Behind a step of so many images over all ranks; `sureness` is averaged over them afterwards."""
        change = (self.sureness - self.target).sign() * (num_images / (1000 * self.kimg))
        self.probability.add_(change).clamp_(0, 1)
        self.sureness.copy_(torch.stack(self.seen).mean())
        self.seen.clear()
