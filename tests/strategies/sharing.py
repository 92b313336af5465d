"""A process that shares work with others, and that something befalls: python -m tests.strategies.sharing CASE"""

from __future__ import annotations

import os
import signal
import sys
import time

import torch
import torch.distributed as dist

from trainer.errors import UserError
from trainer.strategies.together import together

LIMIT = 6


def main(case: str) -> None:
    with together("cpu", rendezvous_seconds=60, limit_seconds=LIMIT):
        rank, total = dist.get_rank(), torch.ones(1)
        dist.all_reduce(total)
        print(f"{total.item():.0f} share", flush=True)
        if rank == 1 and case in ("SIGKILL", "SIGSTOP"):
            os.kill(os.getpid(), getattr(signal, case))
        if rank == 1 and case == "mistake":
            time.sleep(1)
            raise UserError("there is no such image")
        if case:
            dist.all_reduce(total)  # waits for the other
    print("done", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
