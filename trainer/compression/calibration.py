"""What layers answer to real inputs: in which directions their outputs move, and how far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trainer.batch import Condition


class Moments:
    """Count, sum and sum of squares of rows (N, C), in double precision."""

    def __init__(self) -> None:
        self.count, self.sum, self.square = 0, torch.zeros(()), torch.zeros(())

    def add(self, rows: Tensor) -> None:
        rows = rows.double()
        self.count += len(rows)
        self.sum = self.sum.to(rows) + rows.sum(0)
        self.square = self.square.to(rows) + rows.T @ rows

    def mean_and_axes(self) -> tuple[Tensor, Tensor]:
        """Mean (C,) and a root L (C, C) of the covariance L L^T, whose columns are orthogonal, longest first."""
        mean = self.sum / self.count
        values, vectors = torch.linalg.eigh(self.square / self.count - mean.outer(mean))
        return mean, (vectors * values.clamp(min=0).sqrt()).flip(1)


class Responses(NamedTuple):
    """mean: (C,), of a layer's output channels. directions: (C, K) orthonormal, values: (K,) deviations along them."""

    mean: Tensor
    directions: Tensor
    values: Tensor


def responses(
    network: nn.Module, inputs: Sequence[tuple[Tensor, Condition]], layers: Mapping[str, Any]
) -> dict[str, Responses]:
    """Principal directions of the outputs of some layers of a network over its inputs.

    layers: {path: the Linear or convolution that the module at that path amounts to}. A linear layer is followed at
    its inputs, which may be far fewer than its outputs; those that the inputs do not reach are left out.
    """
    moments = {path: Moments() for path in layers}

    def watch(path: str) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            linear = isinstance(layers[path], nn.Linear)
            moments[path].add(args[0].flatten(0, -2) if linear else output.movedim(1, -1).flatten(0, -2))

        return hook

    hooks = [network.get_submodule(path).register_forward_hook(watch(path)) for path in layers]
    try:
        with torch.no_grad():
            for latent, condition in inputs:
                network(latent, condition)
    finally:
        for hook in hooks:
            hook.remove()
    return {path: _of(layers[path], found) for path, found in moments.items() if found.count}


def _of(layer: Any, moments: Moments) -> Responses:
    mean, axes = moments.mean_and_axes()
    if isinstance(layer, nn.Linear):
        weight = layer.weight.detach().double()
        axes = weight @ axes
        mean = weight @ mean + (0 if layer.bias is None else layer.bias.detach().double())
    directions, values, _ = torch.linalg.svd(axes, full_matrices=False)
    return Responses(mean, directions, values)
