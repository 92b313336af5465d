"""What accelerators can do by their data sheets: the few numbers that a forecast and a utilisation (MFU) need."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from trainer.benchmark.model import Interconnect
from trainer.errors import UserError

GB, GIB = 1e9, 2**30


@dataclass(frozen=True)
class Card:
    """Peaks of a card, dense: nothing counts on sparsity.

    tflops_16: of 16 bits with fp32 accumulation; tflops_tf32: of TF32, as fp32 where there is none; tflops_32: of plain
    fp32. memory_gb, memory_gb_s: size and bandwidth of its memory. link_gb_s: to another card of its node, one
    direction. network_gbit_s: of a card's share of the adapters of its node, one direction. Decimal units, as printed.
    of_peak, of_memory, of_link: share of the peaks that kernels and collectives are assumed to reach. launch_us: time
    of the host for an operator, eager. intra_us, inter_us: latency of a message within a node and between nodes.
    carries: ranks that compute at full speed side by side, where they share a machine's cores; None: each has its own.
    busy: other processes that want these cores, and had their share of them when the card was measured.
    """

    tflops_16: float
    tflops_tf32: float
    tflops_32: float
    memory_gb: float
    memory_gb_s: float
    link_gb_s: float
    network_gbit_s: float
    per_node: int = 8
    of_peak: float = 0.5
    of_memory: float = 0.7
    of_link: float = 0.8
    launch_us: float = 6.0
    intra_us: float = 5.0
    inter_us: float = 10.0
    carries: float | None = None
    busy: float = 0.0

    @property
    def ahead(self) -> bool:
        """Whether weights are gathered before they are asked for: a GPU's host runs ahead, a CPU's does not."""
        return self.carries is None

    def crowd(self, ranks: int) -> float:
        """Times as long as on one rank that computing takes on so many, each with an equal share of the cores."""
        if self.carries is None:
            return 1.0
        return max(1.0, (ranks + self.busy) / self.carries) / max(1.0, (1 + self.busy) / self.carries)

    def flops(self, numbers: str) -> float:
        """Peak FLOP/s in "16", "tf32" or "fp32"."""
        return 1e12 * {"16": self.tflops_16, "tf32": self.tflops_tf32, "fp32": self.tflops_32}[numbers]

    def links(self) -> Interconnect:
        intra, inter = self.link_gb_s * GB / GIB, self.network_gbit_s / 8 * GB / GIB
        return Interconnect(
            self.of_link * intra, self.of_link * inter, self.intra_us, self.per_node, inter_latency_us=self.inter_us
        )


# From NVIDIA's data sheets of each product, and architecture whitepapers: B200 (HGX B200 at 1,000 W, memory as in DGX
# B200), H100, H200, GH200, A100, L4, L40S, A10; Ampere GA102, Ada AD102, Turing TU104 (T4), Volta GV100. A link is half
# of what is printed for both directions: NVLink 5 1,800 GB/s, 4 900, 3 600, 2 300; PCIe 5 x16 128 GB/s, 4 64, 3 32.
# Networks are those of the reference systems: DGX H100, H200 and B200 one adapter of 400 Gbit/s a card, DGX A100 one of
# 200, DGX-1V four of 100; cards without NVLink are assumed to share 200 Gbit/s among eight.
# The first name found in torch.cuda.get_device_name() is its card.
CARDS: dict[str, Card] = {
    "B200": Card(2250, 1100, 80, 180, 8000, 900, 400),
    "GH200": Card(989.4, 494.7, 66.9, 96, 4000, 450, 400, per_node=1),
    "H200": Card(989.4, 494.7, 66.9, 141, 4800, 450, 400),
    "H100 PCIe": Card(756.5, 378.0, 51.2, 80, 2000, 64, 25),
    "H100": Card(989.4, 494.7, 66.9, 80, 3350, 450, 400),  # SXM5
    "A100-SXM4-40GB": Card(312, 156, 19.5, 40, 1555, 300, 200),
    "A100": Card(312, 156, 19.5, 80, 2039, 300, 200),  # SXM4
    "L40S": Card(362, 183, 91.6, 48, 864, 32, 25),
    "L4": Card(121, 60, 30.3, 24, 300, 32, 25),
    "A10G": Card(70, 35, 35, 24, 600, 32, 25),
    "A10": Card(125, 62.5, 31.2, 24, 600, 32, 25),
    "RTX 4090": Card(165.2, 82.6, 82.6, 24, 1008, 32, 25),
    "RTX 3090": Card(71, 35.6, 35.6, 24, 936, 32, 25),
    "T4": Card(65, 8.1, 8.1, 16, 320, 16, 25),  # 16 bits are fp16 only
    "V100-PCIE": Card(112, 14, 14, 16, 900, 16, 25),  # fp16 only
    "V100": Card(125, 15.7, 15.7, 32, 900, 150, 50),
}


def known(name: str) -> Card | None:
    """The card of a device's name, None where it is not in the table."""
    return next((card for key, card in CARDS.items() if key in name), None)


def chosen(name: str, changes: dict[str, float | None]) -> Card:
    """A card by its name, with some of its numbers changed."""
    if name not in CARDS:
        raise UserError(f"gpu={name}: expected measured or one of {', '.join(CARDS)}")
    return changed(CARDS[name], changes)


def changed(card: Card, changes: dict[str, float | None]) -> Card:
    for key, value in changes.items():
        if value is not None and value <= 0:
            raise UserError(f"cluster.{key}={value}: expected more than 0")
    given: dict[str, Any] = {key: value for key, value in changes.items() if value is not None}
    return replace(card, **given)
