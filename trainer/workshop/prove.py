"""Everything that is known of a generator at each stage, the speed of all of them measured in turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from trainer.figures import Figure
from trainer.proof import size, speed
from trainer.proof.fresh import fresh
from trainer.proof.stage import Stage
from trainer.workshop.candidate import Bench, Candidate
from trainer.workshop.quality import Quality

PAYS = 1.02  # times: less is told apart by no measurement here


def prove(
    candidates: Mapping[str, Candidate],
    places: Sequence[Path],
    bench: Bench,
    quality: Quality,
    batch_sizes: Sequence[int],
    captions: Sequence[str],
) -> tuple[list[Stage], list[Figure], dict[str, Tensor]]:
    """The stages of candidates by name, the first what all others are compared with; the figures of the last; images.

    places: where the first and the last are saved; new processes load them there. captions: of the images (N, 3, H, W)
    uint8 by name, with seeds from 0.
    """
    networks = {name: candidate.ready() for name, candidate in candidates.items()}
    speeds = speed.measure(networks, bench.batch, list(batch_sizes))
    stages, found, images = list[Stage](), list[Figure](), {}
    for name, network in networks.items():
        found = quality(network)
        before = stages[-1].speed if stages else None
        slow = before and speeds[name].versus(before) < PAYS
        stages.append(
            Stage(
                name,
                note="no faster on this device than the stage before" if slow else "",
                speed=speeds[name],
                size=size.measure(network, bench.inputs[0], candidates[name].state()),
                figures={figure.metric: figure.value for figure in found},
            )
        )
        images[name] = quality.sampler(network)(captions, range(len(captions)))
    for stage, place in zip((stages[0], stages[-1]), places, strict=True):
        if stage.speed:
            stage.fresh = fresh(place, captions[0], stage.speed.best_batch, bench.inputs[0][0].device.type)
    return stages, found, images
