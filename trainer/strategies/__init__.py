"""How networks are spread over devices."""

from __future__ import annotations

from typing import Any


def auto(
    accelerator: str = "auto",
    devices: Any = "auto",
    num_nodes: int = 1,
    reduce_dtype: str = "float32",
    **options: Any,
) -> Any:
    """`DDP` where several processes are launched or the trainer is to use several devices, else `Single`."""
    import math

    import torch

    from trainer.process import ranks

    found = ranks.launcher_size()
    each = devices if isinstance(devices, int) else len(devices)
    if devices in ("auto", -1, "-1"):
        each = torch.cuda.device_count() if accelerator != "cpu" else 1
    if (math.prod(found) if found else num_nodes * each) > 1:
        from trainer.strategies.ddp import DDP

        return DDP(reduce_dtype=reduce_dtype, **options)
    from trainer.strategies.single import Single

    return Single(**options)
