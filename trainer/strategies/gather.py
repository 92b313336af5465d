"""Rows of all ranks, for losses over all pairs of a batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class Gather(torch.autograd.Function):
    """(N, ...) of this rank to (N * ranks, ...) of all, in their order; N is the same on every rank.

    Backward adds up what all ranks ask of this rank's rows: where every rank takes the same mean over all rows and the
    ranks' gradients are averaged, the result is the gradient of that mean in one process.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        sent = rows.to(torch.uint8) if rows.dtype == torch.bool else rows.contiguous()  # gloo knows no bool
        received = [torch.empty_like(sent) for _ in range(dist.get_world_size())]
        dist.all_gather(received, sent)
        return torch.cat(received).to(rows.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]
