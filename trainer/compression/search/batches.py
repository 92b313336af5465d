"""The numbers of images at once for which another way to run a network is the quicker one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from statistics import median

from torch import nn

from trainer.compression.comparison import latency
from trainer.process.progress import say

TRIED = (1, 2, 4, 8)  # from 16 on, an image has the same bits in any company: one way alone draws those
QUICKER = 1.05  # times: for less no program is kept


def gains(
    name: str, network: nn.Module, other: nn.Module, inputs: latency.Inputs, sizes: Sequence[int]
) -> dict[int, float]:
    """How many times the images/s of `network` those of `other` are, by batch size: in turns, on `inputs`' device."""
    before, after = (
        each.throughput_rounds
        for each in latency.measure({"before": network, name: other}, inputs, sizes, rounds=3, seconds=0.1).values()
    )
    return {size: median(a / b for a, b in zip(after[size], before[size], strict=True)) for size in after}


def quicker(name: str, network: nn.Module, other: nn.Module, inputs: latency.Inputs, sizes: Sequence[int]) -> list[int]:
    """The sizes at which `other` draws sooner than `network`. name: of the other way, for the line that tells."""
    found = gains(name, network, other, inputs, sizes)
    told = ", ".join(f"{size}: {found[size]:.2f}" for size in sizes if size in found)
    paying = [size for size in sizes if found.get(size, 0) >= QUICKER]
    which = ", ".join(map(str, paying)) or "none"
    say(f"{name}: for batches of {which}; its speed beside what was there, by batch size: {told}")
    return paying


def largest(name: str, network: nn.Module, other: nn.Module, inputs: latency.Inputs) -> int:
    """The largest of `TRIED` at which, and at all below it, `other` draws sooner than `network`; 0 if none.

    name: of the other way, for the line that tells. Measured in turns, on the device of `inputs`.
    """
    found = gains(name, network, other, inputs, TRIED)
    paying = [0, *takewhile(lambda size: found[size] >= QUICKER, found)]
    told = ", ".join(f"{size}: {gain:.2f}" for size, gain in found.items())
    say(f"{name}: for up to {paying[-1]} images at once; its speed beside what was there, by batch size: {told}")
    return paying[-1]
