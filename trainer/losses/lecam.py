"""LeCam regularisation of a discriminator, for few data."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.losses.adversarial import per_sample


class LeCam(nn.Module):
    """R_LC = |D(x) - a_F|^2 + |D(G(z)) - a_R|^2 (Tseng et al. 2021, eq. 4), elementwise.

    a_R, a_F: moving averages of the logits of real and of generated images, decay 0.99. They are moved behind a step,
    so that all micro-batches and ranks see the same ones, and averaged over ranks.
    """

    averages: Tensor

    def __init__(self, decay: float = 0.99):
        super().__init__()
        self.decay = decay
        self.seen: list[Tensor] = []
        self.register_buffer("averages", torch.zeros(2))  # real, generated

    def forward(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """(N,) of logits (N, ...), which are remembered."""
        real, fake = self.averages.unbind()
        self.seen.append(torch.stack([real_logits.detach().float().mean(), fake_logits.detach().float().mean()]))
        return per_sample((real_logits.float() - fake).square() + (fake_logits.float() - real).square())

    def commit(self) -> None:
        """Behind a step."""
        self.averages.lerp_(torch.stack(self.seen).mean(0), 1 - self.decay)
        self.seen.clear()
