"""Bytes that a rank holds under each strategy, from what the networks are: what `strategy.memory` finds at work."""

from __future__ import annotations

from trainer.benchmark.count import Network, Work
from trainer.strategies.engine import bucket_size

CONTEXT = 0.6 * 2**30  # of CUDA, its libraries' and the collectives' work space; of a data sheet nobody prints it
LIVE = 4e9  # of weights that DeepSpeed keeps gathered: its `stage3_max_live_parameters`
SLACK = 1.1  # what an allocator holds beyond what is in use


def states(strategy: str, network: Network, ranks: int) -> dict[str, float]:
    """Of one network with P bytes of weights over W ranks, k states of its optimiser for each weight:

    single, ddp  P parameters, P gradients, kP states
    zero1        P, P, kP/W, P/W of fp32 copy that it steps, a bucket
    zero2        P, P/W, kP/W, P/W, two buckets: one fills while the other is reduced
    zero3        P/W, P/W, kP/W, P/W, a bucket
    fsdp         P/W, P/W, kP/W

    The average of a network that has one is split as its parameters are.
    """
    whole, share = float(network.bytes), network.bytes / ranks
    alike = strategy in ("single", "ddp")
    zero = strategy.startswith("zero")
    split = strategy in ("zero3", "fsdp")
    buckets = {"zero1": 1, "zero2": 2, "zero3": 1}.get(strategy, 0)
    parameters = share if split else whole
    return {
        "parameters": parameters,
        "gradients": whole if alike or strategy == "zero1" else share,
        "optimizer": network.moments * (whole if alike else share),
        "master": share if zero else 0.0,
        "buckets": 4.0 * buckets * bucket_size(network.sizes),
        "ema": parameters if network.averaged else 0.0,
    }


def held(strategy: str, work: Work, ranks: int, images: float) -> dict[str, float]:
    """Bytes on a rank by what they are; `images`: of a rank in a step.

    activations: what autograd keeps of a micro-batch in the phase that keeps the most. gathered: whole weights and
    gradients of the two largest units that are there at once, or of the whole network where a penalty needs it; under
    zero3 all weights, which stay from their first use to the next step.
    """
    total: dict[str, float] = {}
    for network in work.networks.values():
        for kind, count in states(strategy, network, ranks).items():
            total[kind] = total.get(kind, 0.0) + count
    if strategy == "zero3" and ranks > 1:
        total["gathered"] = min(LIVE, float(sum(network.bytes for network in work.networks.values())))
    if strategy == "fsdp" and ranks > 1:
        units = [2.0 * 2 * network.largest for network in work.networks.values()]
        penalised = [2.0 * work.networks[name].bytes for name, phase in work.phases.items() if phase.whole]
        total["gathered"] = max(units + penalised)
    total["frozen"] = float(work.fixed)
    total["activations"] = max(phase.saved for phase in work.phases.values()) * images / work.accumulate
    return total


def needed(parts: dict[str, float]) -> float:
    """Bytes that a card must have for these."""
    return CONTEXT + SLACK * sum(parts.values())
