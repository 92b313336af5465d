"""What a rank communicates, measured: every collective that PyTorch dispatches, whoever issued it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_KINDS = {  # beginning of an operator's name without underscores -> collective; the first that fits
    "allreduce": "all_reduce",
    "allgather": "all_gather",
    "reducescatter": "reduce_scatter",
    "broadcast": "broadcast",
    "reduce": "reduce",
    "alltoall": "all_to_all",
    "gather": "gather",
    "scatter": "scatter",
    "send": "send",
    "isend": "send",
    "recv": "recv",
    "irecv": "recv",
    "barrier": "barrier",
    "monitoredbarrier": "barrier",
}


class Traffic(TorchDispatchMode):
    """Within it, counts this rank's collectives: `calls` and `bytes`, each kind of collective -> number.

    Sees what goes through PyTorch's dispatcher in the threads that inherit its modes: calls from Python, DDP's C++
    reducer, FSDP2's and DeepSpeed's hooks in the backward pass, on CPU and CUDA alike.

    `bytes` are those of the whole tensor that a collective works on, which does not depend on the number of ranks W:
    what is reduced (all_reduce), the full output (all_gather), the full input (reduce_scatter). DDP thus counts the
    bytes of its gradients. `sent` turns them into what a rank puts on the wire. Objects count as the two all_gathers
    that carry them. It costs time for every operator: use it on steps of their own, never on timed ones.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operator.namespace in ("c10d", "_c10d_functional"):
            name = operator._opname.replace("_", "")
            kind = next((kind for start, kind in _KINDS.items() if name.startswith(start)), None)
            if kind:  # waiting for a collective is none
                self.calls[kind] += 1
                self.bytes[kind] += 0 if kind == "barrier" else max(map(size, args), default=0)
        return operator(*args, **(kwargs or {}))


def size(argument: Any) -> int:
    """Bytes of a tensor, or of all in a nested list; 0 for anything else."""
    if isinstance(argument, Tensor):
        return argument.nbytes
    return sum(map(size, argument)) if isinstance(argument, (list, tuple)) else 0


def sent(kind: str, count: float, ranks: int) -> float:
    """Bytes that each of W ranks sends on a ring for a collective over `count` bytes.

    all_reduce 2 (W-1)/W n; all_gather, reduce_scatter, all_to_all (W-1)/W n; others n; a single rank sends nothing.
    """
    part = (ranks - 1) / ranks
    rings = {"all_reduce": 2 * part, "all_gather": part, "reduce_scatter": part, "all_to_all": part}
    return rings.get(kind, 1.0 if ranks > 1 else 0.0) * count
