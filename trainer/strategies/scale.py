"""The scale of a network's loss in fp16, whose small gradients would else be 0 (Micikevicius et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from trainer.errors import UserError
from trainer.strategies.hold import LIMIT, Hold, local

START, LEAST, MOST = 2.0**16, 1.0, 2.0**32
PATIENCE = 2000  # steps without an overflow, after which it is doubled


class Scale(Hold):
    """Of one network. A step whose gradient has left the numbers is left out and halves the scale.

    Where the scale is LEAST already, it is not fp16 that has lost them: the network is held. All that decides is on the
    device, and is the norm of the gradient that the ranks have averaged: they leave out the same steps.
    factor: () float32, a power of two, so that it changes no bit of a gradient; calm: () float32, steps since it last
    changed; over: () bool, whether the last step was left out; norm: () of the last gradient that was a number.
    """

    def __init__(self, device: torch.device):
        super().__init__(device)
        self.factor = torch.full((), START, device=device)
        self.calm, self.norm = torch.zeros((), device=device), torch.zeros((), device=device)
        self.over = torch.zeros((), dtype=torch.bool, device=device)

    def scaled(self, value: Tensor) -> Tensor:
        return value * self.factor

    def unscale(self, gradients: Sequence[Tensor]) -> None:
        held = [local(each) for each in gradients]
        torch._foreach_mul_(held, self.factor.reciprocal().to(held[0].device))

    def see(self, norm: Tensor) -> dict[str, Tensor]:
        self.over = ~(norm < LIMIT)
        self.age.add_((self.age > 0) | (self.over & (self.factor <= LEAST)))
        self.norm = torch.where(self.over, self.norm, norm)
        self.calm.add_(1).masked_fill_(self.over, 0)
        grows = self.calm >= PATIENCE
        self.calm.masked_fill_(grows, 0)
        self.factor.mul_(1 - 0.5 * self.over + 1.0 * grows).clamp_(LEAST, MOST)
        return {"gradient_norm": self.norm, "loss_scale": self.factor.clone()}

    @property
    def left_out(self) -> Tensor:
        return self.over | (self.age > 0)

    def state(self) -> dict[str, Tensor]:
        """What a run that goes on needs."""
        return {"factor": self.factor.clone(), "calm": self.calm.clone()}

    def fill(self, state: dict[str, Tensor]) -> None:
        self.factor.copy_(state["factor"])
        self.calm.copy_(state["calm"])


def check_leaves_out(optimizer: Optimizer) -> None:
    """UserError where a GPU could not leave a step of the optimiser out without asking the host."""
    kind = type(optimizer).__name__
    if kind not in ("Adam", "AdamW") or not all(group.get("fused") for group in optimizer.param_groups):
        raise UserError(
            f"trainer.precision=16-mixed: {kind} cannot leave a step out on a GPU: use torch.optim.Adam or AdamW with "
            "fused: true, or trainer.precision=32-true"
        )
