"""All that one launch can measure, on the ranks that it has."""

from __future__ import annotations

import math
import os
import platform
import time
from statistics import median
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from trainer.process.progress import say
from trainer.process.ranks import launcher_size, rank
from trainer.runs import run_folder


def strategy(cfg: DictConfig, ranks: int) -> str:
    """Name of the strategy that the command chose; what `auto` stands for on that many ranks."""
    name = HydraConfig.get().runtime.choices.get("strategy") or cfg.strategy._target_
    return ("ddp" if ranks > 1 else "single") if name == "auto" else name


def environment() -> dict[str, Any]:
    import torch

    gpu = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if gpu else "CPU",
        "cpu": f"{platform.machine()}, {os.cpu_count()} cores",
        "threads_per_rank": torch.get_num_threads(),
        "load": f"{os.getloadavg()[0]:.2f} processes wanted to run in the last minute",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": run_folder.commit(),
        "time": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }


def measure(cfg: DictConfig) -> dict[str, Any]:
    """Everything of this number of ranks; `speed` holds the medians of the `runs`."""
    from trainer.benchmark.bare import Bare
    from trainer.benchmark.peak import peak
    from trainer.benchmark.probe import probe
    from trainer.benchmark.step_time import speed

    looked = probe(cfg) if cfg.probe else None  # first: what it says of memory is without the bare loop
    runs = []
    alone = math.prod(launcher_size() or (1,)) == 1
    reason = Bare.refuses(cfg) if alone else "the bare loop has one rank"
    if not cfg.bare:
        reason = "left out"
    for number in range(1, cfg.repeats + 1):
        runs.append(speed(cfg, Bare(cfg) if reason is None else None))
        if rank() == 0:
            say(f"{number}/{cfg.repeats}  {line(runs[-1])}")
    flops, source = peak(cfg.trainer.precision)
    return {
        "name": cfg.name,
        "strategy": strategy(cfg, runs[0]["ranks"]),
        "precision": str(cfg.trainer.precision),
        "steps": cfg.steps,
        "environment": environment(),
        "no_bare_loop": reason,
        "peak": {"flops": flops, "source": source},
        "speed": medians(runs),
        "runs": runs,
        "probe": looked,
    }


def line(run: dict[str, Any]) -> str:
    """A run in one line."""
    text = f"ours {1000 * run['step_s']:7.2f} ms"
    if run["bare"]:
        text += f"  bare {1000 * run['bare']['step_s']:7.2f} ms  ratio {run['ratio']:.3f}"
    return f"{text}  data wait {run['data_wait']:.2%}"


def medians(runs: list[Any]) -> Any:
    """Of each number over the runs, in nested dicts that are alike."""
    if isinstance(runs[0], dict):
        return {key: medians([run[key] for run in runs]) for key in runs[0]}
    return runs[0] if all(run == runs[0] for run in runs) else median(runs)  # the former: counts, and None
