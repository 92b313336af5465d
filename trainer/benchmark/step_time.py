"""How long a step and its phases take, in our loop and in the bare one."""

from __future__ import annotations

import time
from collections import defaultdict
from statistics import median
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig

from trainer.benchmark.bare import Bare
from trainer.benchmark.fit import device, fit, penalty_cycle, synchronize

WARM_UP = 10  # steps
PHASE_STEPS = 8  # at least, and a whole cycle of lazy penalties: of a GPU, for which the clock must wait at each phase


class Clock(pl.Callback):
    """The last callback: stamps each of our batches, then gives the bare loop its turn.

    The loops take turns step by step, so that a machine whose speed drifts is as fast for the one as for the other.
    """

    def __init__(self, bare: Bare | None, steps: int):
        self.bare, self.steps = bare, steps
        self.ours: list[float] = []
        self.others: list[float] = []
        self.waits: list[float] = []
        self.phases: dict[str, list[float]] = defaultdict(list)
        self.bare_phases: dict[str, list[float]] = defaultdict(list)

    def plan(self, objective: Any) -> int:
        self.cycle = penalty_cycle(objective)
        self.timed = range(WARM_UP, WARM_UP + self.steps)
        later = range(self.timed.stop, self.timed.stop + max(PHASE_STEPS, self.cycle))
        self.phased = later if device().type == "cuda" else self.timed
        return self.phased.stop

    def on_train_start(self, trainer: Any, objective: Any) -> None:
        self.ranks = trainer.world_size
        self.done = time.perf_counter()

    def on_train_batch_start(self, *_: Any) -> None:
        self.waits.append(time.perf_counter() - self.done)  # from the last hook to here: the loop and the loader

    def on_train_batch_end(self, trainer: Any, objective: Any, *_: Any) -> None:
        synchronize()
        now = time.perf_counter()
        self.ours.append(now - self.done)
        step = len(self.ours) - 1
        if step in self.phased:
            for name, seconds in objective.phase_seconds.items():
                self.phases[name].append(float(seconds))
        if step + 1 in self.phased:
            objective.time_phases = True
        if self.bare:
            self.bare.step()
            synchronize()
        self.done = time.perf_counter()
        self.others.append(self.done - now)
        if self.bare and step in self.phased:
            for name, seconds in self.bare.phase_seconds.items():
                self.bare_phases[name].append(seconds)
        if self.bare:
            self.bare.time_phases = step + 1 in self.phased

    def typical(self, seconds: list[float], steps: range) -> float:
        return typical(seconds, steps, self.cycle)

    def result(self, batch_size: int) -> dict[str, Any]:
        """Seconds of a step and its phases; images/s over all ranks; the share of a step spent waiting for data."""
        timed = slice(self.timed.start, self.timed.stop)
        step = self.typical(self.ours[timed], self.timed)
        result: dict[str, Any] = {
            "ranks": self.ranks,
            "batch_size": batch_size,
            "step_s": step,
            "images_per_second": batch_size / step,
            "data_wait": sum(self.waits[timed]) / sum(self.ours[timed]),
            "phases_s": {name: self.typical(seconds, self.phased) for name, seconds in self.phases.items()},
            "bare": None,
        }
        if self.bare:
            bare = self.typical(self.others[timed], self.timed)
            phases = {name: self.typical(seconds, self.phased) for name, seconds in self.bare_phases.items()}
            result["bare"] = {"step_s": bare, "images_per_second": batch_size / bare, "phases_s": phases}
            result["ratio"] = step / bare
        return result


def typical(seconds: list[float], steps: range, cycle: int) -> float:
    """Mean over a cycle of the median of its batches with a lazy penalty (every `cycle`-th) and of those without."""
    due = [each for step, each in zip(steps, seconds, strict=True) if step % cycle == 0]
    ordinary = [each for step, each in zip(steps, seconds, strict=True) if step % cycle]
    if not due or not ordinary:
        return median(seconds)
    return (median(due) + (cycle - 1) * median(ordinary)) / cycle


def speed(cfg: DictConfig, bare: Bare | None) -> dict[str, Any]:
    """One run of `cfg.steps` timed steps, in turn with the bare loop where there is one."""
    return fit(cfg, Clock(bare, cfg.steps)).result(cfg.data.batch_size)
