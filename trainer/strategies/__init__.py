"""How networks are spread over devices."""

from __future__ import annotations

from typing import Any


def auto(**options: Any) -> Any:
    """`DDP` where more than one GPU is visible or a launcher has started several processes, else `Single`."""
    import os

    import torch

    if torch.cuda.device_count() > 1 or int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", 1))) > 1:
        from trainer.strategies.ddp import DDP

        return DDP(**options)
    from trainer.strategies.single import Single

    return Single(**options)
