"""The pieces of a tensor that ranks hold, on their way into a checkpoint and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Part:
    """What a rank holds of a tensor: the elements from `start` on of the flattened whole.

    tensor: those elements, in any shape. shape: of the whole. whole: every rank holds all of it.
    """

    tensor: Tensor
    start: int
    shape: torch.Size
    whole: bool = False


def fill(part: Part, whole: Tensor) -> None:
    """Copies into a part what belongs there."""
    with torch.no_grad():
        if part.tensor.shape == part.shape:  # keeps its own memory format
            part.tensor.copy_(whole)
        elif count := part.tensor.numel():
            part.tensor.view(-1).copy_(whole.reshape(-1)[part.start : part.start + count])


def save_parts(parts: dict[str, Any], device: torch.device, sharded: bool) -> dict[str, Any]:
    """Parts as a checkpoint keeps them; what is no Part stays. Called by all ranks with the same keys.

    Whole tensors on rank 0 and nothing elsewhere; if `sharded`, on each rank what it holds: dicts of `part` (flat),
    `start` and `shape`, and what all ranks hold on rank 0.
    """
    if sharded or all(part.whole for part in parts.values() if isinstance(part, Part)):
        return {key: kept for key, part in parts.items() if (kept := own(part)) is not None}
    spans: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(spans, [(p.start, p.tensor.numel()) for p in parts.values() if is_split(p)])
    saved = {}
    number = 0
    for key, part in parts.items():
        if is_split(part):
            kept = gather(part, [span[number] for span in spans], device)
            number += 1
        else:
            kept = own(part)
        if kept is not None:
            saved[key] = kept
    return saved


class Joined(Mapping[Any, Any]):
    """The same dict as several ranks have it; what they hold in parts comes out whole, one tensor at a time."""

    def __init__(self, ranks: Sequence[Mapping[Any, Any]]):
        self.ranks = ranks

    def __getitem__(self, key: Any) -> Any:
        return joined([rank[key] for rank in self.ranks if key in rank])

    def __iter__(self) -> Iterator[Any]:
        return iter(self.ranks[0])

    def __len__(self) -> int:
        return len(self.ranks[0])


def joined(ranks: Sequence[Any]) -> Any:
    """One value of what the ranks wrote: parts are put together, all else is as rank 0 has it."""
    first = ranks[0]
    if isinstance(first, list):
        return [joined(each) for each in zip(*ranks, strict=True)]
    if not isinstance(first, dict):
        return first
    if first.keys() != {"part", "start", "shape"}:
        return Joined(ranks)
    whole = torch.empty(first["shape"], dtype=first["part"].dtype)
    for piece in ranks:
        whole.view(-1)[piece["start"] : piece["start"] + len(piece["part"])] = piece["part"]
    return whole


def is_split(part: Any) -> bool:
    return isinstance(part, Part) and not part.whole


def own(part: Any) -> Any:
    """What this rank writes of a part; None if nothing."""
    if is_split(part):
        return {"part": part.tensor.detach().reshape(-1).clone(), "start": part.start, "shape": list(part.shape)}
    if dist.is_initialized() and dist.get_rank() > 0:
        return None
    return part.tensor.detach() if isinstance(part, Part) else part


def gather(part: Part, spans: list[tuple[int, int]], device: torch.device) -> Tensor | None:
    """The whole tensor, in main memory, on rank 0; None elsewhere. spans: first element and number of each rank."""
    most = max(count for _, count in spans)
    padded = torch.zeros(most, dtype=part.tensor.dtype, device=device)
    padded[: part.tensor.numel()] = part.tensor.detach().reshape(-1)
    if dist.get_rank() > 0:
        dist.gather(padded, dst=0)
        return None
    pieces = [torch.empty_like(padded) for _ in spans]
    dist.gather(padded, pieces, dst=0)
    whole = torch.empty(part.shape.numel(), dtype=padded.dtype)
    for piece, (start, count) in zip(pieces, spans, strict=True):
        whole[start : start + count] = piece[:count]
    return whole.view(part.shape)
