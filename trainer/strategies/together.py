"""Processes that share the work of a verb, as `trainer.evaluate`: they meet, watch each other and end as a training."""

from __future__ import annotations

import math
import os
import platform
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from trainer.errors import UserError
from trainer.process import ranks
from trainer.strategies.rendezvous import meet, tell_of_loopback
from trainer.strategies.watch import BEAT, GRACE, Watch


@contextmanager
def together(
    device: str | None, rendezvous_seconds: float = 60, limit_seconds: float = 60, progress_seconds: float = 1800
) -> Iterator[str | None]:
    """Within it the processes that torchrun or srun has started work in one group; yields the device of this one.

    UserError if one of them does not come. One that dies, freezes or is stuck ends the others, with its name; the
    seconds are those of a strategy and of the callback `Heartbeat`, which say more.
    """
    _, processes = found = ranks.launcher_size() or (1, 1)
    count, rank = math.prod(found), ranks.rank()
    if count == 1:
        yield device
        return
    gpu = torch.cuda.is_available() and device != "cpu"
    if gpu:
        number = int(os.environ.get("LOCAL_RANK") or os.environ["SLURM_LOCALID"])
        if number >= torch.cuda.device_count():
            raise UserError(f"{processes} processes a node for {torch.cuda.device_count()} GPUs: start one for each")
        device = f"cuda:{number}"
        torch.cuda.set_device(device)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else its stack traces bury the line that names a dead rank
    store: Any = meet(*address(), rank, count, rendezvous_seconds)
    if not gpu:
        tell_of_loopback(store, rank, count)
    options: dict[str, Any] = {"store": store, "rank": rank, "world_size": count}
    dist.init_process_group(
        "nccl" if gpu else "gloo", timeout=timedelta(hours=6), **options
    )  # rank 0 may train a probe

    def ended(verdict: str) -> None:
        who = f"rank {rank}: " if rank else ""
        time.sleep(BEAT)  # srun loses what is written while it deals with the death of the other task
        os.write(2, f"{who}{verdict}: stopping\n".encode())
        time.sleep(BEAT / 2)
        os._exit(1)  # the main thread may hang in a collective for good

    watch = Watch(store.clone(), rank, hosts(count), limit_seconds, progress_seconds, Path("stacks").absolute(), ended)
    watch.start()
    try:
        yield device
    except BaseException as error:
        leave(watch, error)
        raise
    watch.finish()
    dist.destroy_process_group()


def address() -> tuple[str, int]:
    """Where the processes of a launcher meet."""
    if "LOCAL_WORLD_SIZE" in os.environ:
        return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    from lightning_fabric.plugins.environments import SLURMEnvironment

    ranks.tell_lightning()
    slurm = SLURMEnvironment(auto_requeue=False)
    return slurm.main_address, slurm.main_port


def hosts(count: int) -> list[str]:
    """The host of each rank; all call it together."""
    names = [""] * count
    dist.all_gather_object(names, os.environ.get("SLURMD_NODENAME") or platform.node())
    return names


def leave(watch: Watch, error: BaseException) -> None:
    """Tells the others why this rank ends. Where a collective failed, leaves it to the verdict which rank is dead."""
    if watch.over.is_set():
        return
    gone = of_a_collective(error)
    text = " ".join(str(error).split())[:200]
    if not gone:
        watch.over.set()  # this rank has its own tale to tell
    watch.leave("lost" if gone else f"ended by {type(error).__name__}{text and ': '}{text}")
    time.sleep((GRACE + 4 if gone else 1.5) * BEAT)  # the verdict ends the process meanwhile; others read the word
    watch.close()


def of_a_collective(error: BaseException) -> bool:
    """Whether `error` is how a library tells of a peer that is gone."""
    words = r"gloo|nccl|(closed|reset) by peer|broken pipe|connection (was )?(closed|refused|reset)"
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and re.search(words, str(error), re.IGNORECASE) is not None
    )
