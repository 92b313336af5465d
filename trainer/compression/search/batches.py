"""The number of images at once up to which another way to run a network is the quicker one."""

from __future__ import annotations

from itertools import takewhile
from statistics import median

from torch import nn

from trainer.compression.comparison import latency
from trainer.process.progress import say

TRIED = (1, 2, 4, 8)  # from 16 on, an image has the same bits in any company: one way alone draws those
QUICKER = 1.05  # times: for less no program is kept


def largest(name: str, network: nn.Module, other: nn.Module, inputs: latency.Inputs) -> int:
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
