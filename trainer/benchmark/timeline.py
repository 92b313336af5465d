"""N ranks as a discrete-event simulation: what each computes, sends and waits for, event by event.

A rank is three streams, each in order: it loads, it computes, it communicates. A step is a program for all of them.
The events of all ranks are worked off side by side: a clock is an array (N,), of seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np


class Compute(NamedTuple):
    """Each rank is busy for so many seconds, times its chance: one in a step for all that has the same name."""

    seconds: Any
    name: str = ""


class Send(NamedTuple):
    """A collective: it begins when the last rank has come to it and the link is free, and takes so many seconds."""

    seconds: float


class Wait(NamedTuple):
    """Computing goes on when the collective of this number, counted from 0 within the step, is done."""

    number: int


Program = Sequence[Compute | Send | Wait]


@dataclass
class Jitter:
    """How unlike ranks and steps are. spread: standard deviation of the chances, normal around 1, each independent.
    stragglers: share of the ranks that are slower by `slower` for good."""

    spread: float = 0.0
    stragglers: float = 0.0
    slower: float = 0.0


@dataclass
class Cluster:
    """ranks: N. load_s: seconds in which a rank's loader makes a batch, `ahead` batches before they are needed."""

    ranks: int
    jitter: Jitter = field(default_factory=Jitter)
    load_s: float = 0.0
    ahead: int = 4
    seed: int = 0


@dataclass(frozen=True)
class Simulated:
    """step_s: (steps,) from end to end of the slowest rank; waited: mean share of a step in which a rank waits for
    others, for a link or for data."""

    step_s: np.ndarray
    waited: float


def simulate(program: Program, cluster: Cluster, steps: int) -> Simulated:
    """Runs `steps` steps; the same seed gives the same numbers."""
    random = np.random.default_rng(cluster.seed)
    ranks, jitter = cluster.ranks, cluster.jitter
    speed = np.ones(ranks)
    speed[: round(jitter.stragglers * ranks)] += jitter.slower
    clock = np.zeros(ranks)
    busy = np.zeros(ranks)
    loaded = np.zeros(ranks)
    taken: list[np.ndarray] = []
    link, ends = 0.0, []
    for _ in range(steps):
        room = taken[-cluster.ahead] if len(taken) >= cluster.ahead else np.zeros(ranks)
        loaded = np.maximum(loaded, room) + cluster.load_s
        clock = np.maximum(clock, loaded)
        taken.append(clock)
        done: list[float] = []
        chances: dict[str, np.ndarray] = {}
        for event in program:
            if isinstance(event, Compute):
                if event.name not in chances:
                    chances[event.name] = np.maximum(1 + jitter.spread * random.standard_normal(ranks), 0.0)
                seconds = event.seconds * speed * chances[event.name]
                clock, busy = clock + seconds, busy + seconds
            elif isinstance(event, Send):
                link = max(link, float(clock.max())) + event.seconds
                done.append(link)
            else:
                clock = np.maximum(clock, done[event.number])
        ends.append(float(clock.max()))
    step_s = np.diff(ends, prepend=0.0)
    return Simulated(step_s, 1 - float(busy.mean()) / ends[-1])
