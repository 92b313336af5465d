"""FLOPs as they are dispatched, double backward passes included."""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class Flops(TorchDispatchMode):
    """Within it, `total` counts FLOPs of matrix products, convolutions and attention; a multiply-add is two.

    The formulas are PyTorch's. Its FlopCounterMode follows modules by hooks that `torch.autograd.grad` refuses.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = operator(*args, **kwargs)
        formula = flop_registry.get(operator._overloadpacket)
        if formula:
            self.total += formula(*args, **kwargs, out_val=out)
        return out
