"""How fast the run goes and what it waits for."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from typing import Any, SupportsFloat

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor

from trainer.callbacks.log import record
from trainer.callbacks.schedule import last

_PAUSE = 0.01  # seconds; what the callbacks after this one take on a step without evaluation is far below


class Throughput(Callback):
    """Every `every_steps` steps, over the steps since the last report:

    - `throughput/images_per_second` over all ranks, `throughput/images_per_second_per_rank`
    - `throughput/step_ms`: one turn of the loop, data and transfer included
    - `throughput/data_wait_percent`: the part of it spent in the loader
    - `throughput/NETWORK_ms`: each phase, on every `phases_every`-th step; of a GPU by its events, so nothing waits
    - `memory/peak_gib` of the run so far: of the GPU, or of the main process on a CPU
    - `throughput/device_minutes` over all starts of the run, times the ranks: of a GPU the time since it was taken, of
      a CPU the time that the main process computed. A start that was killed counts until its last checkpoint

    Of several ranks the largest value counts. Left out of the others: the first `warmup_steps`, and sampling,
    evaluation and checkpoints: the count begins anew after a pause between two steps, which is all that the callbacks
    behind this one do. Stands behind `Log`, before what pauses.
    """

    def __init__(self, every_steps: int = 20, phases_every: int = 5, warmup_steps: int = 5) -> None:
        self.every_steps = every_steps
        self.phases_every = phases_every
        self.warmup_steps = warmup_steps
        self._born = time.perf_counter()
        self._steps = self._images = self._first_step = 0
        self._minutes_before, self._on_gpu, self._ranks = 0.0, False, 1
        self._started = self._ended = self._waited = 0.0
        self._phases: dict[str, list[SupportsFloat]] = {}

    def on_train_start(self, trainer: Trainer, objective: Any) -> None:
        self._first_step = trainer.global_step
        self._on_gpu, self._ranks = objective.device.type == "cuda", trainer.world_size
        fetcher: Any = trainer.fit_loop._data_fetcher
        fetcher.iterator = self._watch(trainer, fetcher.iterator)
        self._restart(trainer)

    def _restart(self, trainer: Trainer) -> None:
        self._started = self._ended = time.perf_counter()
        objective: Any = trainer.lightning_module
        self._steps, self._images = trainer.global_step, objective.images_seen
        self._waited, self._phases = 0.0, {}

    def _watch(self, trainer: Trainer, batches: Iterator[Any]) -> Iterator[Any]:
        """Hands the batches on and counts the time that each takes to come."""
        while True:
            asked = time.perf_counter()
            if asked - self._ended > _PAUSE:
                self._restart(trainer)
            try:
                batch = next(batches)
            except StopIteration:
                return
            self._waited += time.perf_counter() - asked
            yield batch

    def on_train_batch_end(self, trainer: Trainer, objective: Any, *_: Any) -> None:
        step = trainer.global_step
        if objective.time_phases:
            for name, seconds in objective.phase_seconds.items():
                self._phases.setdefault(name, []).append(seconds)
        objective.time_phases = (step + 1) % self.phases_every == 0
        if step - self._first_step == self.warmup_steps:
            self._restart(trainer)
        elif step % self.every_steps == 0 or last(trainer):
            self._report(trainer, objective)
            self._restart(trainer)
        self._ended = time.perf_counter()

    def _report(self, trainer: Trainer, objective: Any) -> None:
        if objective.device.type == "cuda":
            torch.cuda.synchronize(objective.device)
        steps, images = trainer.global_step - self._steps, objective.images_seen - self._images
        elapsed = time.perf_counter() - self._started
        phases = [self._phases.get(name, []) for name in objective.phases]
        warm = steps > 0 and trainer.global_step - self._first_step > self.warmup_steps
        measured = [
            images / elapsed if warm else 0.0,
            100 * self._waited / elapsed if warm else 0.0,
            peak_gib(objective.device),
            self._device_minutes(),
            *(1000 * sum(map(float, times)) / len(times) if times else 0.0 for times in phases),
        ]
        values: Tensor = torch.tensor(measured, device=objective.device)
        speed, wait, memory, minutes, *phase_ms = trainer.strategy.reduce(values, reduce_op="max").tolist()
        metrics = {"memory/peak_gib": memory, "throughput/device_minutes": minutes}
        if speed:
            metrics["throughput/images_per_second"] = speed
            metrics["throughput/images_per_second_per_rank"] = speed / trainer.world_size
            metrics["throughput/step_ms"] = 1000 * objective.images_seen / trainer.global_step / speed
            metrics["throughput/data_wait_percent"] = wait
        metrics |= {f"throughput/{name}_ms": ms for name, ms in zip(objective.phases, phase_ms, strict=True) if ms}
        record(trainer, metrics)

    def _device_minutes(self) -> float:
        held = time.perf_counter() - self._born if self._on_gpu else time.process_time()
        return self._minutes_before + self._ranks * held / 60

    def state_dict(self) -> dict[str, Any]:
        return {"device_minutes": self._device_minutes()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._minutes_before = float(state_dict["device_minutes"])


def peak_gib(device: torch.device) -> float:
    """Most memory that tensors held on a GPU, or that the process held in RAM, in GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
