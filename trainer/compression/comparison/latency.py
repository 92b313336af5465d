"""How fast networks draw, measured in turns: a machine drifts by a fifth within a minute, and then does so for all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor

from trainer.batch import Condition
from trainer.process.progress import Progress, say

Network = Callable[[Tensor, Condition], Any]
Inputs = Callable[[int], tuple[Tensor, Condition]]

LATENCY_CALLS = 50  # at batch 1, over all rounds, at least
WARM_UP_CALLS = 3  # at each batch size: the first compiles, the quickest of them says whether a size pays
MORE_CALLS = 6  # before a size is left out: a moment of a busy machine shall not do it
PAYS = 2.0  # a batch size that takes so many times longer an image than the best before it ends the search


@dataclass
class Speed:
    """Times of one network.

    latency_ms: of calls with one image, {"p50", "p95", "p99"}. p50_rounds: the median of each round in ms.
    throughput_rounds: batch size -> images/s of each round. Round i of all networks measured together is one moment.
    """

    latency_ms: dict[str, float]
    p50_rounds: list[float]
    throughput_rounds: dict[int, list[float]] = field(default_factory=dict)

    @property
    def images_per_second(self) -> dict[int, float]:
        """Batch size -> median of the rounds."""
        return {size: median(rounds) for size, rounds in self.throughput_rounds.items()}

    @property
    def best_batch(self) -> int:
        """Images a call where most are drawn in a second."""
        speeds = self.images_per_second
        return max(speeds, key=lambda size: speeds[size])

    @property
    def best(self) -> float:
        """Images/s at the best batch size."""
        return self.images_per_second[self.best_batch]

    def versus(self, reference: Speed) -> float:
        """How many times the images/s of `reference`, each at its best batch size: median of the rounds' ratios."""
        return median(self._ratios(reference))

    def quartiles_versus(self, reference: Speed) -> tuple[float, float]:
        """The lower and the upper quartile of these ratios, of two rounds or more."""
        lower, _, upper = quantiles(self._ratios(reference), n=4, method="inclusive")
        return lower, upper

    def _ratios(self, reference: Speed) -> list[float]:
        own, other = self.throughput_rounds[self.best_batch], reference.throughput_rounds[reference.best_batch]
        return [a / b for a, b in zip(own, other, strict=True)]

    def latency_versus(self, reference: Speed) -> float:
        """Speed-up of the latency of one image: median of the rounds' ratios of medians."""
        return median(b / a for a, b in zip(self.p50_rounds, reference.p50_rounds, strict=True))


def measure(
    networks: Mapping[str, Network],
    inputs: Inputs,
    batch_sizes: Sequence[int] = (1, 4, 16, 64, 256),
    rounds: int = 5,
    seconds: float = 0.5,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Speed]:
    """The speed of each network, (latent, condition) -> images, under inference mode and on the device of `inputs`.

    inputs: batch size -> a batch. A round gives every network a turn of `seconds` (of at least one call) at every batch
    size; another network begins each round. Batch sizes that are out of memory are left out for a network and told, as
    are those that no longer pay, but for the first network, beside which the others stand.
    Times at batch 1 are those of `LATENCY_CALLS` calls or more. GPUs are waited for after each call.
    """
    sizes = sorted({1, *batch_sizes})
    batches = {size: inputs(size) for size in sizes}
    timer = Timer(clock, batches[1][0].device)
    names = list(networks)
    with torch.inference_mode():
        plans = worthwhile_batch_sizes(networks, batches, timer)
        calls: dict[str, list[list[float]]] = {name: [] for name in names}
        throughput: dict[str, dict[int, list[float]]] = {name: {size: [] for size in plans[name]} for name in names}
        progress, done = Progress("timed", "turns", rounds * sum(map(len, plans.values()))), 0
        for number in range(rounds):
            shift = number % len(names)
            for size in sizes:
                fewest = -(-LATENCY_CALLS // rounds) if size == 1 else 1
                for name in (*names[shift:], *names[:shift]):
                    if size not in plans[name]:
                        continue
                    times = timer.turn(networks[name], batches[size], seconds, fewest)
                    throughput[name][size].append(size * len(times) / sum(times))
                    if size == 1:
                        calls[name].append(times)
                    progress(done := done + 1)
    return {name: Speed(*latencies(calls[name]), throughput[name]) for name in names}


def latencies(rounds: Sequence[Sequence[float]]) -> tuple[dict[str, float], list[float]]:
    """Percentiles in ms over the calls of all rounds (linear between neighbours), and the median of each round."""
    cuts = quantiles([1000 * each for calls in rounds for each in calls], n=100, method="inclusive")
    return {f"p{p}": cuts[p - 1] for p in (50, 95, 99)}, [1000 * median(calls) for calls in rounds]


def worthwhile_batch_sizes(
    networks: Mapping[str, Network], batches: Mapping[int, tuple[Tensor, Condition]], timer: Timer
) -> dict[str, list[int]]:
    """Warms networks up in turns; of each the batch sizes, by rising size, before one that does not pay or fit."""
    kept: dict[str, list[int]] = {name: [] for name in networks}
    best = dict.fromkeys(networks, float("inf"))
    searched, first = [*networks], next(iter(networks))
    progress, done = Progress("warmed up", "batch sizes", len(batches)), 0
    for size, batch in batches.items():
        quickest = dict.fromkeys(searched, float("inf"))
        for call in range(WARM_UP_CALLS + MORE_CALLS):
            for name in [*searched]:
                if call >= WARM_UP_CALLS and (name == first or quickest[name] / size <= PAYS * best[name]):
                    continue
                try:
                    quickest[name] = min(quickest[name], timer.call(networks[name], batch))
                except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                    if not kept[name] or not out_of_memory(error):
                        raise
                    searched.remove(name)
                    say(f"{name}: batches of {size} do not fit into memory: left out, as are larger ones")
        for name in [*searched]:
            if name != first and quickest[name] / size > PAYS * best[name]:
                searched.remove(name)
                times = quickest[name] / size / best[name]
                say(f"{name}: an image takes {times:.1f} times as long in batches of {size}: left out, as are larger")
                continue
            best[name] = min(best[name], quickest[name] / size)
            kept[name].append(size)
        progress(done := done + 1)
    return kept


def out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


class Timer:
    """Seconds of calls on a device."""

    def __init__(self, clock: Callable[[], float], device: torch.device):
        self.clock, self.device = clock, device

    def call(self, network: Network, batch: tuple[Tensor, Condition]) -> float:
        start = self.clock()
        network(*batch)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self.clock() - start

    def turn(self, network: Network, batch: tuple[Tensor, Condition], seconds: float, fewest: int) -> list[float]:
        """Times of calls for so many seconds, and for at least `fewest` calls."""
        times: list[float] = []
        total = 0.0
        while len(times) < fewest or total < seconds:
            times.append(self.call(network, batch))
            total += times[-1]
        return times
