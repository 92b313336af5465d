"""Holds a network back from a gradient that has left the numbers, on the device: nothing waits to learn of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

LIMIT = 1.8e19  # Adam keeps squares, and float32 ends at 3.4e38


class Hold:
    """Of one network. From the first step on whose gradient norm is NaN or above LIMIT, no step changes it any more.

    age: () float32 on the device, how many steps ago that was, itself counted; 0 while all is well. Whoever reads it
    waits for the device: `trainer.callbacks.guard` does, from time to time.
    """

    def __init__(self, device: torch.device):
        self.age = torch.zeros((), device=device)

    def see(self, norm: Tensor) -> None:
        """norm: () of the whole gradient, the same on all ranks."""
        self.age.add_((self.age > 0) | ~(norm < LIMIT))

    def step(self, optimizer: Optimizer, gradients: Sequence[Tensor]) -> None:
        """Steps the optimiser, unless it is held; gradients: this rank's, which the optimiser is going to read.

        On a GPU a fused optimiser leaves it out by itself, as it does for a loss scale; others take gradients of 0.
        """
        if self.age.device.type == "cpu":
            if not self.age:
                optimizer.step()
            return
        broken = self.age > 0
        if getattr(optimizer, "_step_supports_amp_scaling", False) and not is_dtensor(gradients[0]):
            optimizer.grad_scale, optimizer.found_inf = None, broken.float()  # type: ignore[attr-defined]
        else:
            for gradient in gradients:
                local = gradient.to_local() if is_dtensor(gradient) else gradient  # type: ignore[attr-defined]
                local.masked_fill_(broken, 0)
        optimizer.step()


def is_dtensor(tensor: Tensor) -> bool:
    """Not by its class, whose import costs each run a second."""
    return hasattr(tensor, "to_local")
