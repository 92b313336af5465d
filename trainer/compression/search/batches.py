"""The numbers of images at once for which another way to run a network is the quicker one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import takewhile
from statistics import median

import torch

from trainer.compression.comparison import latency
from trainer.process.progress import say

TRIED = (1, 2, 4, 8, 16, 64)
QUICKER = 1.05  # times: for less no program is kept


def largest(name: str, network: latency.Network, other: latency.Network, inputs: latency.Inputs) -> int:
    """The largest of `TRIED` at which, and at all below it, `other` draws sooner than `network`; 0 if none.

    name: of the other way, for the line that tells. Measured in turns, on the device of `inputs`.
    """
    before, after = (
        each.throughput_rounds
        for each in latency.measure({"before": network, name: other}, inputs, TRIED, rounds=3, seconds=0.1).values()
    )
    gains = {size: median(a / b for a, b in zip(after[size], before[size], strict=True)) for size in after}
    quicker = [0, *takewhile(lambda size: gains[size] >= QUICKER, gains)]
    told = ", ".join(f"{size}: {gain:.2f}" for size, gain in gains.items())
    say(f"{name}: for up to {quicker[-1]} images at once; its speed beside what was there, by batch size: {told}")
    return quicker[-1]


def quicker(
    name: str, network: latency.Network, other: latency.Network, inputs: latency.Inputs, sizes: Sequence[int]
) -> list[int]:
    """Those of the sizes at which `other` draws sooner than `network`, whatever it gains at others.

    name: of the other way, for the line that tells. Measured in turns, on the device of `inputs`.
    """
    timer, gains = latency.Timer(time.perf_counter, inputs(1)[0].device), {}
    with torch.inference_mode():
        for size in sizes:
            batch = inputs(size)
            for each in (network, other):
                timer.call(each, batch)
            turns = [[median(timer.turn(each, batch, 0.1, 3)) for each in (network, other)] for _ in range(5)]
            gains[size] = median(before / after for before, after in turns)
    paying = [size for size in sizes if gains[size] >= QUICKER]
    told = ", ".join(f"{size}: {gain:.2f}" for size, gain in gains.items())
    which = ", ".join(map(str, paying)) or "none"
    say(f"{name}: for batches of {which}; its speed beside what was there, by batch size: {told}")
    return paying
