"""A model of what a step costs: compute, and collectives by their volume, number and the links between the ranks.

Volumes follow Rajbhandari et al. 2020 (ZeRO, section 7). Collectives run on a ring within a node and between nodes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

BACKWARD = 2 / 3  # of a phase's compute: twice the FLOPs of the forward pass
BUCKETS = (2**20, 25 * 2**20)  # bytes that DDP reduces at once: in the first collective, in others
STRATEGIES = ("ddp", "zero1", "zero2", "zero3", "fsdp")


@dataclass(frozen=True)
class Network:
    """bytes: of all weights. units: number of parts that FSDP gathers one by one."""

    bytes: int
    units: int = 1


@dataclass(frozen=True)
class Collective:
    """`calls` collectives over `bytes` in total, counted as `Traffic` counts them; kind as there."""

    kind: str
    bytes: float
    calls: float = 1.0


@dataclass
class Interconnect:
    """Links that a rank has: bandwidths in GiB/s in one direction, latency of a message in microseconds.

    The defaults are those of a node of eight H100 as NCCL sees them: NVLink 4 (450 GB/s in one direction, of which 80%
    arrive), one InfiniBand NDR adapter for each GPU (400 Gbit/s, of which 90% arrive), 5 us from kernel to kernel.
    """

    intra_gib_s: float = 335.0
    inter_gib_s: float = 42.0
    latency_us: float = 5.0
    gpus_per_node: int = 8
    inter_latency_us: float | None = None  # of a message between nodes, None: as within one

    def seconds(self, collective: Collective, ranks: int) -> float:
        """Time of a collective over W ranks, g of them in each of M nodes; n bytes in total, k calls.

        all_gather, reduce_scatter  k hops latency + (g-1)/g n/intra + (M-1)/M (n/g)/inter   with hops = g-1 + log2 M
        all_reduce                  twice that: a reduce_scatter and an all_gather (Patarasuk & Yuan 2009)
        others                      k hops latency + n/slowest, as in a pipeline along the ring

        In one node this is the ring: 2 (W-1) latency + 2 (W-1)/W n/bandwidth for an all_reduce. Between nodes the
        latency grows with the logarithm, as in NCCL's trees (Sanders et al. 2009), the bandwidth term as on a ring.
        """
        if ranks == 1:
            return 0.0
        local = min(ranks, self.gpus_per_node)
        nodes = math.ceil(ranks / local)
        intra, inter = self.intra_gib_s * 2**30, self.inter_gib_s * 2**30
        far = self.latency_us if self.inter_latency_us is None else self.inter_latency_us
        latency = collective.calls * ((local - 1) * self.latency_us + math.log2(nodes) * far) * 1e-6
        share = (local - 1) / local / intra + (nodes - 1) / nodes / local / inter
        if collective.kind == "all_reduce":
            return 2 * (latency + share * collective.bytes)
        if collective.kind in ("all_gather", "reduce_scatter", "all_to_all"):
            return latency + share * collective.bytes
        return latency + collective.bytes / (intra if nodes == 1 else min(intra, inter))


def volumes(strategy: str, stepping: Network, others: Sequence[Network] = ()) -> list[Collective]:
    """What a phase communicates: P bytes of weights in the network that steps, F_i in those that are frozen.

    ddp           all_reduce P                                   on the wire 2P (W-1)/W, that of the gradients
    zero1, zero2  reduce_scatter P, all_gather P                 2P: gradients to their owner, weights back
    zero3, fsdp   all_gather 2P + 2 sum F_i, reduce_scatter P    3P + 2F: weights for forward and again for backward

    A frozen network counts with both passes; one whose backward pass is not needed (a generator in the
    discriminator's phase) costs half of that. A network that a loss calls k times is gathered k times by FSDP.
    """
    if strategy == "ddp":
        first, other = BUCKETS
        return [Collective("all_reduce", stepping.bytes, 1 + math.ceil(max(0, stepping.bytes - first) / other))]
    scatter = Collective("reduce_scatter", stepping.bytes)
    if strategy in ("zero1", "zero2"):
        return [scatter, Collective("all_gather", stepping.bytes)]
    if strategy in ("zero3", "fsdp"):
        networks = [stepping, *others]
        gathers = Collective("all_gather", sum(2 * n.bytes for n in networks), sum(2 * n.units for n in networks))
        return [gathers, Collective("reduce_scatter", stepping.bytes, stepping.units)]
    raise ValueError(f"strategy {strategy}: volumes are known of {', '.join(STRATEGIES)}")


@dataclass(frozen=True)
class Step:
    """Seconds of a step: compute of its phases, communication, and the part of it that compute does not hide."""

    compute: float
    communication: float
    exposed: float

    @property
    def apart(self) -> float:
        """Without overlap."""
        return self.compute + self.communication

    @property
    def overlapped(self) -> float:
        return self.compute + self.exposed


def step(
    strategy: str, compute: Sequence[float], phases: Sequence[Sequence[Collective]], links: Interconnect, ranks: int
) -> Step:
    """A step of several phases, given each one's seconds of compute and its collectives.

    With overlap, ideally: gradients (all_reduce, reduce_scatter, reduce) behind the backward pass, 2/3 of the compute;
    weights (all_gather and the rest) behind the whole phase where they are fetched ahead (zero3, fsdp), else behind
    nothing, as zero1 and zero2 gather after the optimiser has stepped.
    """
    total = exposed = 0.0
    for seconds, phase in zip(compute, phases, strict=True):
        gradients = sum(links.seconds(c, ranks) for c in phase if c.kind in ("all_reduce", "reduce_scatter", "reduce"))
        rest = sum(links.seconds(c, ranks) for c in phase) - gradients
        total += gradients + rest
        if strategy in ("zero3", "fsdp"):
            exposed += max(0.0, gradients + rest - seconds)
        else:
            exposed += rest + max(0.0, gradients - BACKWARD * seconds)
    return Step(sum(compute), total, exposed)


def fitted(sweep: Sequence[dict[str, float]], ranks: int) -> Interconnect:
    """The links that explain all_reduces measured in one node: seconds = 2 (W-1) (latency + n/W/bandwidth).

    sweep: rows with `bytes` and `seconds`. Least squares of relative errors: small sizes count as large ones do.
    """
    rows = [(2 * (ranks - 1), 2 * (ranks - 1) / ranks * row["bytes"], row["seconds"]) for row in sweep]
    aa = sum((a / t) ** 2 for a, _, t in rows)
    bb = sum((b / t) ** 2 for _, b, t in rows)
    ab = sum(a * b / t**2 for a, b, t in rows)
    at, bt = sum(a / t for a, _, t in rows), sum(b / t for _, b, t in rows)
    determinant = aa * bb - ab * ab
    latency = max((at * bb - bt * ab) / determinant, 1e-9)
    per_byte = max((bt * aa - at * ab) / determinant, 1e-15)
    bandwidth = 1 / per_byte / 2**30
    return Interconnect(bandwidth, bandwidth, 1e6 * latency, gpus_per_node=max(ranks, 1))
