"""Everything that is known of a generator at each stage, the speed of all of them measured in turns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from trainer.figures import Figure
from trainer.proof import size, speed
from trainer.proof.fresh import fresh
from trainer.proof.stage import Stage
from trainer.workshop.candidate import Bench
from trainer.workshop.quality import Quality

PAYS = 1.02  # times: less is told apart by no measurement here


def prove(
    networks: Sequence[tuple[str, nn.Module]],
    out: Path,
    bench: Bench,
    quality: Quality,
    batch_sizes: Sequence[int],
    caption: str,
) -> tuple[list[Stage], list[Figure]]:
    """The stages of networks by name, the first what all others are compared with, and the figures of the last.

    out: where the last is saved; new processes load it there, and draw `caption`.
    """
    numbered = {str(number): network for number, (_, network) in enumerate(networks)}  # names may come twice
    speeds = list(speed.measure(numbered, bench.batch, list(batch_sizes)).values())
    stages, found = [], list[Figure]()
    for number, (name, network) in enumerate(networks):
        found = quality(network)
        slow = number and speeds[number].versus(speeds[number - 1]) < PAYS
        file = out if number == len(networks) - 1 else None
        stages.append(
            Stage(
                name,
                note="no faster on this device than the stage before" if slow else "",
                speed=speeds[number],
                size=size.measure(network, bench.inputs[0], file),
                figures={figure.metric: figure.value for figure in found},
            )
        )
    stages[-1].fresh = fresh(out, caption, speeds[-1].best_batch, bench.inputs[0][0].device.type)
    return stages, found
