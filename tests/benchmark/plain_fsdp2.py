"""Our loop under strategy=fsdp beside a plain FSDP2 loop, in turns step by step: python tests/benchmark/plain_fsdp2.py

The plain loop is the bare one of trainer/benchmark/bare.py over networks that are sharded as torchtitan shards a model:
`fully_shard` on each block, then on the whole, forward methods registered, one optimiser a network, nothing around it.
It has no R1: a double backward through modules that FSDP2 gathers and frees fails (`--r1` shows how).
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

from trainer.benchmark import __main__ as verb
from trainer.benchmark.bare import LOOPS, Bare
from trainer.benchmark.fit import build, device, fit
from trainer.benchmark.step_time import Clock
from trainer.strategies.sharded import units

ROOT = Path(__file__).parents[2]
RUNS, STEPS, IMAGES = 3, 16, 16
ARGUMENTS = ["experiment=cgan", "strategy=fsdp", "objective.r1=0"]


class Plain(Bare):
    """The bare loop over networks that FSDP2 splits."""

    def __init__(self, cfg: Any):
        objective, data, _ = build(cfg)
        average, _, _ = build(cfg)
        self.device, self.autocast, self.phase_seconds = device(), False, {}
        for network in (objective.generator, objective.discriminator, average.generator):
            shard(network)
        make = LOOPS[type(objective).__name__]
        with mock.patch.object(copy, "deepcopy", lambda network: average.generator):  # FSDP2 modules refuse it
            self.loop = make(objective, self.phase)
        self.batches = iter(data.train_dataloader())


def shard(network: Any) -> None:
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    for parameter in network.parameters():
        parameter.data = parameter.data.contiguous().view(-1).view(parameter.shape)
    for block in units(network, 1_000_000):
        fully_shard(block, reshard_after_forward=True)
    fully_shard(network, reshard_after_forward=True)  # not the default: a player that is frozen would go stale
    network._get_fsdp_state()._lazy_init()
    for method in ("features", "logits", "stages", "matched"):
        if hasattr(network, method):
            register_fsdp_forward_method(network, method)


class Beside(Clock):
    """Takes turns with the plain loop, which is made when there is a process group."""

    def __init__(self, cfg: Any) -> None:
        super().__init__(None, STEPS)
        self.cfg = cfg

    def on_train_start(self, trainer: Any, objective: Any) -> None:
        self.bare = Plain(self.cfg)
        super().on_train_start(trainer, objective)


def work() -> None:
    """On each rank."""

    def measure(cfg: Any) -> None:
        own = copy.deepcopy(cfg)
        own.data.batch_size = IMAGES // 2
        ratios = []
        for run in range(RUNS):
            found = fit(cfg, Beside(own)).result(IMAGES)
            ratios.append(found["ratio"])
            ours, bare = 1000 * found["step_s"], 1000 * found["bare"]["step_s"]
            tell(f"run {run + 1}: ours {ours:.0f} ms, plain FSDP2 {bare:.0f} ms, ratio {ratios[-1]:.3f}")
        tell(f"ratio {median(ratios):.3f}, from {min(ratios):.3f} to {max(ratios):.3f}")

    verb.benchmark = measure
    r1 = ["objective.r1=0.1", "objective.penalty_interval=2"] if "--r1" in sys.argv else []
    sys.argv[1:] = [*ARGUMENTS, f"data.batch_size={IMAGES}", *r1]
    verb.main()


def tell(line: str) -> None:
    if os.environ["RANK"] == "0":
        print(line, flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        command += [__file__, "--work"]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
        sys.exit(subprocess.run([*command, *sys.argv[1:]], cwd=folder, env=environment).returncode)


if __name__ == "__main__":
    work() if "--work" in sys.argv else main()
