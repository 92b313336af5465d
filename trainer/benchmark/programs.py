"""A step under each strategy as a program for the simulation: its overlap is that of the engines as they are."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from trainer.benchmark.cards import Card
from trainer.benchmark.count import Pass, Phase, Work
from trainer.benchmark.model import BUCKETS, Collective, Interconnect
from trainer.benchmark.timeline import Compute, Program, Send, Wait
from trainer.strategies.engine import bucket_size
from trainer.strategies.traffic import sent

PREFETCHED = 200e6  # bytes that DeepSpeed's stage 3 gathers at once: its `stage3_prefetch_bucket_size`


def seconds(passes: Sequence[Pass], card: Card, images: float, accumulate: int) -> float:
    """Of a forward or backward pass of `images`, a mean over steps with penalties and without.

    An operator takes what its FLOPs or its bytes take, whichever is longer (a roofline, Williams et al. 2009), and all
    of them at least the time in which the host issues them.
    """
    total = 0.0
    for each in passes:
        half = np.asarray(each.half, bool)
        peak = card.of_peak * np.where(half, card.flops("16"), card.flops("tf32"))
        work = np.maximum(
            images * np.asarray(each.flops) / peak,
            images * np.asarray(each.bytes) / (card.of_memory * card.memory_gb_s * 1e9),
        )
        total += each.share * max(float(work.sum()), accumulate * len(half) * card.launch_us * 1e-6)
    return total


def stepping(work: Work, name: str, strategy: str, ranks: int, card: Card) -> float:
    """Seconds of the optimiser: reads weights, gradients and states, writes weights and states; and of the EMA."""
    network = work.networks[name]
    passes = 3 + 2 * network.moments + (3 if network.averaged else 0)
    share = ranks if strategy != "ddp" else 1
    return passes * network.bytes / share / (card.of_memory * card.memory_gb_s * 1e9)


def collectives(strategy: str, work: Work, name: str) -> dict[str, list[Collective]]:
    """What a phase sends: `forward` and `backward` weights that are gathered, `reduce` gradients, `after` the step.

    ddp           all_reduce of gradients, 1 MiB first and then 25 MiB at once
    zero1, zero2  all_reduce of buckets (of which each rank keeps its share), all_gather of weights after the step
    fsdp          all_gather of each unit wherever a loss calls it and in its backward, reduce_scatter of gradients
    zero3         all_gather of a network in the first phase after its step; there it stays; reduce_scatter of buckets
    """
    network, phase = work.networks[name], work.phases[name]
    micro = work.accumulate
    if strategy == "ddp":
        first = min(BUCKETS[0], network.bytes)
        rest = cut("all_reduce", network.bytes - first, BUCKETS[1])
        return {"reduce": [Collective("all_reduce", first), *rest]}
    if strategy in ("zero1", "zero2"):
        reduce = cut("all_reduce", network.bytes, 4 * bucket_size(network.sizes))
        times = micro if strategy == "zero2" else 1
        return {"reduce": reduce * times, "after": [Collective("all_gather", network.bytes)]}
    if strategy == "zero3":
        names = list(work.phases)
        stepped = work.networks[names[names.index(name) - 1]]
        return {
            "forward": cut("all_gather", stepped.bytes, PREFETCHED),
            "reduce": cut("reduce_scatter", network.bytes, 4 * bucket_size(network.sizes)) * micro,
        }
    return {
        "forward": gathers(phase, 0, micro),
        "backward": gathers(phase, 1, micro),
        "reduce": [Collective("reduce_scatter", network.bytes / network.units)] * network.units * micro,
    }


def cut(kind: str, count: float, most: float) -> list[Collective]:
    """So many bytes in equal parts that are not larger than `most`."""
    parts = math.ceil(count / most)
    return [Collective(kind, count / parts) for _ in range(parts)]


def gathers(phase: Phase, direction: int, micro: int) -> list[Collective]:
    count = round(phase.gathers[direction]) * micro
    return [Collective("all_gather", micro * phase.gathered[direction] / count) for _ in range(count)]


def bytes_sent(strategy: str, work: Work, ranks: int) -> float:
    """By each rank in a step, on rings."""
    phases = [collectives(strategy, work, name) for name in work.phases]
    return sum(sent(c.kind, c.bytes, ranks) for phase in phases for part in phase.values() for c in part)


def program(
    strategy: str, work: Work, compute: dict[str, tuple[float, float, float]], links: Interconnect, ranks: int,
    ahead: bool = True,
) -> Program:  # fmt: skip
    """compute: network -> seconds of forward, backward and step. ahead: whether weights are gathered before they are
    asked for, as on a GPU, whose host runs ahead; on a CPU each gather is waited for.

    ddp, zero2    a bucket is reduced as soon as its gradients are there, behind what is left of the backward pass
    zero1         likewise, but the backward pass waits for each
    fsdp          the gradients of a unit are scattered behind the backward pass of the next ones
    zero3         weights likewise, gradients as zero2
    """
    events: list[Compute | Send | Wait] = []
    number = 0

    def send(collective: Collective) -> int:
        nonlocal number
        events.append(Send(links.seconds(collective, ranks)))
        number += 1
        return number - 1

    def through(name: str, total: float, gathered: list[Collective], reduced: list[Collective], wait: bool) -> None:
        """A pass in as many pieces as there are collectives within it; at its end all that it has sent is done."""
        pieces, sent_gradients = max(len(gathered), len(reduced), 1), []
        next_gather = send(gathered[0]) if gathered and ahead else -1
        for piece in range(pieces):
            for which in range(piece * len(gathered) // pieces, (piece + 1) * len(gathered) // pieces):
                this = next_gather if ahead else send(gathered[which])
                if ahead and which + 1 < len(gathered):
                    next_gather = send(gathered[which + 1])
                events.append(Wait(this))
            events.append(Compute(total / pieces, name))
            for which in range(piece * len(reduced) // pieces, (piece + 1) * len(reduced) // pieces):
                sent_gradients.append(send(reduced[which]))
                if wait:
                    events.append(Wait(sent_gradients[-1]))
        events.extend(Wait(each) for each in sent_gradients)

    for name in work.phases:
        forward, backward, step = compute[name]
        parts = collectives(strategy, work, name) if ranks > 1 else {}
        through(f"{name} forward", forward, parts.get("forward", []), [], False)
        through(f"{name} backward", backward, parts.get("backward", []), parts.get("reduce", []), strategy == "zero1")
        events.append(Compute(step, f"{name} step"))
        events += [Wait(send(each)) for each in parts.get("after", [])]
    return events
