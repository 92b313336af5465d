"""What the ranks of a run make of their shares: sums, or all rows in one order. Without other ranks both cost nothing.

Metrics are functions of such sums or rows, so they come out the same on one rank or eight, however uneven the shares.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def alone() -> bool:
    return not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1


def add(sums: Tensor, device: torch.device | str | None = None) -> Tensor:
    """The sum over all ranks, float64, by one all-reduce; on the device of `sums`, which stay as they are.

    device: where the ranks communicate, a GPU of each under NCCL; None for that of `sums`.
    """
    total = sums.detach().to(device or sums.device, torch.float64, copy=True)
    if not alone():
        total = total.contiguous()
        dist.all_reduce(total)
    return total.to(sums.device)


def gather(rows: Tensor, numbers: Tensor) -> Tensor:
    """(total, ...) rows of all ranks, on every rank, in the order of the numbers of their images.

    rows: (N, ...), numbers: (N,) int64, no number twice in all; both on the device on which the ranks communicate.
    N may differ between ranks and be 0, with rows (0, ...) of the same width and dtype. Memory: the largest share once
    for each rank, and the result.
    """
    assert len(rows) == len(numbers), f"{len(rows)} rows, {len(numbers)} numbers"
    rows, numbers = rows.detach(), numbers.to(rows.device, torch.int64)
    if not alone():
        own = torch.tensor([len(rows)], device=rows.device)
        counts = [torch.zeros_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(counts, own)
        sizes = [int(count) for count in counts]
        rows, numbers = _padded_gather(rows, sizes), _padded_gather(numbers, sizes)
    numbers, order = numbers.sort()
    assert not (numbers[1:] == numbers[:-1]).any(), "an image was measured twice"
    return rows[order]


def _padded_gather(rows: Tensor, sizes: list[int]) -> Tensor:
    padded = rows.new_zeros(max(sizes), *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
