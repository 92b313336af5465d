"""The figures of docs/placement.md, computed anew: `python tests/benchmark/test_placement.py` prints its tables."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.batch import Condition
from trainer.benchmark.flops import Flops
from trainer.benchmark.model import BACKWARD, Interconnect, Network, step, volumes
from trainer.benchmark.peak import of_gpu
from trainer.networks import dcgan, residual

DOC = Path(__file__).parents[2] / "docs/placement.md"
# name, architecture, pixels, base, largest and style channels, images a GPU, format of products
CASES: list[tuple[Any, ...]] = [
    ("dcgan, 32 px", dcgan, 32, 32, 256, 256, 32, "tf32"),
    ("dcgan, +scale=gpu, 64 px", dcgan, 64, 64, 512, 512, 256, "16"),
    ("1 G weights, 256 px", residual, 256, 160, 2560, 2048, 8, "16"),
]
MFU, UNITS, LINKS = 0.3, 10, Interconnect()
RANKS = (8, 64, 1024)


def flops(function: Any) -> float:
    with Flops() as counted:
        function()
    return counted.total / 2


def case(kind: Any, pixels: int, base: int, largest: int, style: int) -> dict[str, Any]:
    """Bytes of fp32 weights and FLOPs an image; nothing is computed, as all tensors are on the meta device."""
    with torch.device("meta"):
        g = kind.Generator(pixels, 64, 384, torch.nn.Identity(), base, largest, style)
        d = kind.Discriminator(pixels, 384, torch.nn.Identity(), base, largest, style)
        c = Condition(torch.zeros(2, 24, 384), torch.zeros(2, 24, dtype=torch.bool), torch.zeros(2, 384))
        z, x = torch.zeros(2, 64), torch.zeros(2, 3, pixels, pixels)
        with torch.no_grad():
            forward = flops(lambda: g(z, c))
        found = {"g": forward, "g_train": flops(lambda: g(z, c).sum().backward())}
        found["d_train"] = flops(lambda: d(x, c).sum().backward())
        d.requires_grad_(False)
        found["d_through"] = flops(lambda: d(x.requires_grad_(), c).sum().backward())
    sizes = [4 * sum(p.numel() for p in network.parameters()) for network in (g, d)]
    return found | {"g_bytes": sizes[0], "d_bytes": sizes[1], "image": 3 * pixels * pixels * 4}


def together(f: dict[str, Any], images: int, speed: float, ranks: int, strategy: str) -> Any:
    compute = [images * (f["g"] + 2 * f["d_train"]) / speed, images * (f["g_train"] + f["d_through"]) / speed]
    g, d = Network(f["g_bytes"], UNITS), Network(f["d_bytes"], UNITS)
    return step(strategy, compute, [volumes(strategy, d, [g]), volumes(strategy, g, [d])], LINKS, ranks)


def apart(f: dict[str, Any], images: int, speed: float, ranks: int) -> float:
    """Seconds of a step with the best split of the ranks; the formula is in the document."""
    link = 2**30 * (LINKS.intra_gib_s if ranks <= LINKS.gpus_per_node else LINKS.inter_gib_s)

    def seconds(of_g: int) -> float:
        of_d, work = ranks - of_g, ranks * images / speed
        g, back = work * f["g"] / of_g, work * (f["g_train"] - f["g"]) / of_g
        d, through = work * f["d_train"] / of_d, work * f["d_through"] / of_d
        exchange = 3 * (ranks * images * f["image"] / min(of_g, of_d) / link + LINKS.latency_us * 1e-6)
        (gradients_g,), (gradients_d,) = (volumes("ddp", Network(f[key])) for key in ("g_bytes", "d_bytes"))
        reduce_g, reduce_d = LINKS.seconds(gradients_g, of_g), LINKS.seconds(gradients_d, of_d)
        exposed = max(0.0, reduce_d - BACKWARD * d) + max(0.0, reduce_g - back)
        return max(back + g, d) + max(d, g) + through + exchange + exposed

    stride = max(1, ranks // 64)
    return min(seconds(of_g) for of_g in range(stride, ranks, stride))


def tables() -> tuple[list[str], list[str]]:
    volume, time = [], []
    mib = 2**20
    for name, kind, pixels, base, largest, style, images, numbers in CASES:
        f = case(kind, pixels, base, largest, style)
        g, d, speed = f["g_bytes"], f["d_bytes"], MFU * of_gpu("H100", numbers)
        step_flops = f["g"] + 2 * f["d_train"] + f["g_train"] + f["d_through"]
        ring, half = 63 / 64, 31 / 32
        volume.append(
            f"| {name} | {g / 4e6:,.2f} M | {d / 4e6:,.2f} M | {step_flops / 1e9:,.2f} | {images} | "
            f"{2 * ring * (g + d) / mib:,.1f} | {2 * half * g / mib:,.1f} | {2 * half * d / mib:,.1f} | "
            f"{6 * images * f['image'] / mib:,.1f} | {ring * (4 * g + 5 * d) / mib:,.1f} |"
        )
        for ranks in RANKS:
            a, c = (together(f, images, speed, ranks, strategy) for strategy in ("ddp", "fsdp"))
            b = apart(f, images, speed, ranks)
            time.append(
                f"| {name} | {ranks} | {1000 * a.compute:,.2f} | {1000 * a.communication:,.2f} | "
                f"{1000 * a.overlapped:,.2f} to {1000 * a.apart:,.2f} | {1000 * b:,.2f} | {1000 * c.overlapped:,.2f} | "
                f"{a.overlapped / b:.2f} to {a.apart / b:.2f} |"
            )
    return volume, time


def test_the_document_says_what_the_model_says():
    written = re.sub(" +", " ", DOC.read_text(encoding="utf-8"))
    for row in [line for table in tables() for line in table]:
        assert row in written, f"docs/placement.md lacks\n{row}"


def test_three_passes_make_a_training_step_of_a_network():
    f = case(dcgan, 32, 32, 256, 256)
    assert f["g_train"] == pytest.approx(3 * f["g"], rel=0.05)
    assert f["d_through"] == pytest.approx(2 / 3 * f["d_train"], rel=0.05)


if __name__ == "__main__":
    for table in tables():
        print("\n".join(table), end="\n\n")
