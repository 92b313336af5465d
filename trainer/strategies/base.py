"""What an objective may ask of a strategy. Each network has an engine: where its gradients go and its optimiser lives.

Forward always goes through the raw networks, so attributes, state keys, EMA, compile and double backward stay plain.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer


class PerNetwork:
    """Mixed into a Lightning strategy. The defaults are those of one process."""

    def backward(self, value: Tensor, optimizer: Optimizer, sync: bool = True) -> None:
        """Adds the gradients of `value` to the optimiser's network; with `sync` they are averaged over the ranks."""
        value.backward()

    def optimizer_step(self, optimizer: Optimizer, clip: float | None = None, **_: Any) -> Tensor | None:
        """Steps the optimiser; returns the network's gradient norm if `clip` limits it."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = clip_grad_norm_(parameters, clip) if clip is not None else None
        optimizer.step()
        return norm

    @contextmanager
    def second_order(self, network: nn.Module) -> Iterator[None]:
        """Keeps the weights of `network` in place for a penalty that differentiates twice."""
        yield

    @contextmanager
    def full_params(self, network: nn.Module) -> Iterator[None]:
        """Shows whole weights of `network`, wherever they live."""
        yield
