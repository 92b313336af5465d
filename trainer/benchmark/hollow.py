"""Tensors without values: weights, batches and random numbers of which only the shapes are there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from trainer.batch import Batch


def empty(objective: nn.Module, mode: FakeTensorMode) -> None:
    """Weights and buffers without values in the place of all that it has; what is shared stays shared."""
    found: dict[int, Any] = {}
    for module in objective.modules():
        tables: list[dict[str, Any]] = [module._parameters, module._buffers]
        for table in tables:
            for name, tensor in table.items():
                if tensor is not None and id(tensor) not in found:
                    hollow = mode.from_tensor(tensor.data)
                    weight = nn.Parameter(hollow, tensor.requires_grad) if table is module._parameters else hollow
                    found[id(tensor)] = weight
                    found[id(weight)] = weight  # where a module is met again under another name
                if tensor is not None:
                    table[name] = found[id(tensor)]


def unknown(seed: int, stream: str, position: Tensor, count: int) -> Tensor:
    """In the place of `noise.bits`: random numbers without values."""
    return torch.empty(len(position), count, dtype=torch.int64)


def without_values(batch: Batch, mode: FakeTensorMode) -> Batch:
    def change(part: Tensor) -> Tensor:
        return mode.from_tensor(part)

    return replace(
        batch,
        image=change(batch.image),
        condition=batch.condition.map(change),
        caption=change(batch.caption),
        position=change(batch.position),
        encoded=None if batch.encoded is None else change(batch.encoded),
        other=None if batch.other is None else without_values(batch.other, mode),
    )
