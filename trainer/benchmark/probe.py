"""What a step does besides taking time: FLOPs, communication and memory, on steps that nobody times."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from torch import nn
from torch.optim import Optimizer

from trainer.benchmark.fit import fit, penalty_cycle
from trainer.benchmark.flops import Flops
from trainer.benchmark.saved import Saved
from trainer.callbacks.throughput import peak_gib
from trainer.strategies.sharded import units
from trainer.strategies.traffic import Traffic

WARM_UP = 3  # steps: reducers arrange their buckets, optimisers make their state
SWEEP = [2**power for power in range(10, 25, 2)]  # bytes, 1 KiB to 16 MiB
SWEEP_REPEATS = 10


class Probe(pl.Callback):
    """The last callback. Looks into a step with a lazy penalty and one without, weighed by how often they come.

    `result["phases"]`: network -> FLOPs a step, calls and bytes a step by kind of collective, memory in bytes by kind;
    `saved`: bytes an image of a micro-batch that are kept for gradients, in the step that keeps the most.
    `result["between_phases"]`: what callbacks communicate. `result["ranks"]`: bytes and memory of every rank.
    """

    result: dict[str, Any]

    def plan(self, objective: Any) -> int:
        self.cycle = penalty_cycle(objective)
        first = -(-WARM_UP // self.cycle) * self.cycle
        self.weights = {first: 1 / self.cycle, first + 1: 1 - 1 / self.cycle} if self.cycle > 1 else {first: 1.0}
        return max(self.weights) + 2  # one more: at the last, callbacks report

    def on_train_start(self, trainer: Any, objective: Any) -> None:
        self.phases: dict[str, dict[str, Any]] = {
            name: {"flops": 0.0, "calls": {}, "bytes": {}, "memory": {}, "saved": 0.0} for name in objective.phases
        }
        self.between: dict[str, Any] = {"calls": {}, "bytes": {}}
        self.running = ""
        objective.timed = self.look  # the context of the loop around each phase
        self.optimizer_step = trainer.strategy.optimizer_step
        trainer.strategy.optimizer_step = self.before_step
        self.trainer = trainer

    def on_train_batch_start(self, trainer: Any, objective: Any, batch: Any, *_: Any) -> None:
        self.objective, self.images = objective, len(batch)
        self.weight = self.weights.get(trainer.global_step, 0.0)
        if self.weight:
            self.outer = Traffic().__enter__()
            self.inner: list[Traffic] = []

    def on_train_batch_end(self, trainer: Any, objective: Any, *_: Any) -> None:
        if not self.weight:
            return
        self.outer.__exit__(None, None, None)
        for traffic in self.inner:
            self.outer.calls.subtract(traffic.calls)
            self.outer.bytes.subtract(traffic.bytes)
        self.add(self.between, self.outer)

    @contextmanager
    def look(self, name: str) -> Iterator[None]:
        if not self.weight:
            yield
            return
        self.running = name
        with ExitStack() as stack:
            flops = stack.enter_context(Flops())
            traffic = stack.enter_context(Traffic())
            saved = stack.enter_context(Saved(self.objective))
            yield
        self.inner.append(traffic)
        self.phases[name]["saved"] = max(self.phases[name]["saved"], saved.total / self.images)
        self.phases[name]["flops"] += self.weight * flops.total
        self.add(self.phases[name], traffic)

    def before_step(self, optimizer: Optimizer, *arguments: Any, **options: Any) -> Any:
        if self.weight:
            self.phases[self.running]["memory"] = self.trainer.strategy.memory(optimizer)
        return self.optimizer_step(optimizer, *arguments, **options)

    def add(self, sums: dict[str, Any], traffic: Traffic) -> None:
        for key in ("calls", "bytes"):
            for kind, count in getattr(traffic, key).items():
                if count:
                    sums[key][kind] = sums[key].get(kind, 0.0) + self.weight * count

    def on_train_end(self, trainer: Any, objective: Any) -> None:
        held = [phase["memory"] for phase in self.phases.values()]
        memory = {kind: sum(each[kind] for each in held) for kind in held[0]}
        memory["ema"] = sum(average.nbytes for average in objective.ema.values())
        own = {
            "bytes": {name: sum(phase["bytes"].values()) for name, phase in self.phases.items()},
            "memory": memory,
            "peak_gib": peak_gib(objective.device),
        }
        self.result = {
            "phases": self.phases,
            "between_phases": self.between,
            "networks": {name: weights(objective.network(name)) for name in objective.phases},
            "ranks": gather(own),
            "sweep": sweep(objective.device) if trainer.world_size > 1 else [],
        }


def weights(network: nn.Module) -> dict[str, int]:
    """Bytes of the whole trainable weights, and the number of units that FSDP makes of them by default."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    size = sum(getattr(p, "ds_numel", p.numel()) * p.element_size() for p in parameters)
    return {"bytes": size, "units": len(units(network, 1_000_000)) + 1}


def gather(own: dict[str, Any]) -> list[dict[str, Any]]:
    """What every rank says, in their order."""
    if not torch.distributed.is_initialized():
        return [own]
    everyone: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, own)
    return everyone


def sweep(device: torch.device) -> list[dict[str, float]]:
    """Median seconds of an all_reduce over all ranks, for a range of sizes in bytes."""
    measured = []
    for size in SWEEP:
        tensor, seconds = torch.zeros(size // 4, device=device), []
        for _ in range(SWEEP_REPEATS + 2):  # the first two connect
            torch.distributed.barrier()
            start = time.perf_counter()
            torch.distributed.all_reduce(tensor)
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        measured.append({"bytes": size, "seconds": median(seconds[2:])})
    return measured


def probe(cfg: DictConfig) -> dict[str, Any]:
    return fit(cfg, Probe()).result
