"""Holds a network back from a gradient that has left the numbers, on the device: nothing waits to learn of it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

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

    def scaled(self, value: Tensor) -> Tensor:
        """The loss as its gradients are computed of it."""
        return value

    def unscale(self, gradients: Sequence[Tensor]) -> None:
        """Makes of what `scaled` gave the gradients of the loss, in place."""

    def see(self, norm: Tensor) -> dict[str, Tensor]:
        """norm: () of the whole gradient, unscaled, the same on all ranks. What is to be logged of it."""
        self.age.add_((self.age > 0) | ~(norm < LIMIT))
        return {"gradient_norm": norm}

    @property
    def left_out(self) -> Tensor:
        """() bool, whether the step that has been seen is none."""
        return self.age > 0

    def step(self, optimizer: Optimizer, gradients: Sequence[Tensor]) -> None:
        """Steps the optimiser, unless it is held; gradients: this rank's, which the optimiser is going to read.

        A fused optimiser leaves it out by itself; others are not called on a CPU, and on a GPU take gradients of 0.
        Where a GPU's gradients rest in main memory, what they wait for is there, too.
        """
        device = local(gradients[0]).device
        left_out = self.left_out.to(device)
        if getattr(optimizer, "_step_supports_amp_scaling", False):
            optimizer.grad_scale, optimizer.found_inf = None, left_out.float()  # type: ignore[attr-defined]
            with replicated() if is_dtensor(gradients[0]) else nullcontext():
                optimizer.step()
            return
        if device.type == "cpu":
            if not left_out:
                optimizer.step()
            return
        for gradient in gradients:
            local(gradient).masked_fill_(left_out, 0)
        optimizer.step()


def is_dtensor(tensor: Tensor) -> bool:
    """Not by its class, whose import costs each run a second."""
    return hasattr(tensor, "to_local")


def local(tensor: Tensor) -> Tensor:
    """What this rank has of it."""
    return tensor.to_local() if is_dtensor(tensor) else tensor  # type: ignore[attr-defined]


def replicated() -> Any:
    """Within it a plain tensor among split ones is the same on all ranks."""
    from torch.distributed.tensor.experimental import implicit_replication

    return implicit_replication()
