"""Everything that is known of a generator at each stage, the speed of all of them measured in turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from trainer.compression.comparison import latency, size
from trainer.compression.comparison.drawn import drawn
from trainer.compression.comparison.fresh_process import fresh
from trainer.compression.comparison.latency import Speed
from trainer.compression.comparison.variant import Stage
from trainer.compression.search.candidate import Bench, Candidate
from trainer.compression.search.quality import Quality
from trainer.runs.results import Figure

PAYS = 1.02  # times: less is told apart by no measurement here
UNEVEN = 0.1  # of a gain, between its quartiles over the rounds: as where other work comes and goes


def prove(
    candidates: Mapping[str, Candidate],
    places: Sequence[Path],
    bench: Bench,
    quality: Quality,
    batch_sizes: Sequence[int],
    captions: Sequence[str],
    beside: Mapping[str, Mapping[str, latency.Network]],
) -> tuple[list[Stage], list[Figure], dict[str, Tensor]]:
    """The stages of candidates by name, the first what all others are compared with; the figures of the last; images.

    places: where the first and the last are saved; new processes load them there. captions: of the images (N, 3, H, W)
    uint8 by name, with seeds from 0. A stage that draws what the one before draws is compared with the first's images,
    and has its other figures from there: its note says so. beside: name of a stage -> what draws as it does and is
    only timed: their stages are behind it.
    """
    networks = {name: candidate.ready() for name, candidate in candidates.items()}
    alone = {name: network for ways in beside.values() for name, network in ways.items()}
    ways = {name: drawn(network) for name, network in networks.items()}
    speeds = latency.measure(ways | alone, bench.batch, list(batch_sizes))
    stages, found, images = list[Stage](), list[Figure](), {}
    last: Candidate | None = None
    for name, network in networks.items():
        notes = of_speed(speeds[name], [stage.speed for stage in stages if stage.speed])
        if found and last and candidates[name].draws_as(last):
            notes.append(f"it draws as {stages[-1].name} does: PSNR and SSIM are its own, other figures of that stage")
            own = {figure.metric: figure for figure in quality.likeness(network)}
            found = [own.get(figure.metric, figure) for figure in found]
        else:
            found = quality(network)
        last = candidates[name]
        stages.append(
            Stage(
                name,
                note="; ".join(notes),
                speed=speeds[name],
                size=size.measure(last.network, bench.without_pads[0], last.state()),
                figures={figure.metric: figure.value for figure in found},
            )
        )
        sampler, seeds = quality.sampler(network), range(len(captions))
        images[name] = sampler(captions, seeds, quality.study(sampler).sources(seeds) if sampler.task else None)
    for stage, place in zip((stages[0], stages[-1]), places, strict=True):
        if stage.speed:
            stage.fresh = fresh(place, captions[0], stage.speed.best_batch, bench.inputs[0][0].device.type)
    shown = list[Stage]()
    for stage in stages:
        others = beside.get(stage.name, {})
        shown += [stage, *(Stage(name, speed=speeds[name], beside=True) for name in others)]
    return shown, found, images


def of_speed(speed: Speed, before: Sequence[Speed]) -> list[str]:
    """Notes on the speed of a stage beside those of the stages before it, the first among them."""
    notes = []
    if before and speed.versus(before[-1]) < PAYS:
        notes.append("no faster on this device than the stage before")
    if before:
        lower, upper = speed.quartiles_versus(before[0])
        if upper - lower > UNEVEN * speed.versus(before[0]):
            uneven = f"its speed-up has quartiles {lower:.2f} and {upper:.2f}"
            notes.append(f"rounds differ, {uneven}: was the machine idle?")
    return notes
