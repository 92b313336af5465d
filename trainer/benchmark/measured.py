"""This machine in the numbers of a card, by a short measurement of products, memory, links, and steps of a run."""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
import torch.distributed as dist
from omegaconf import DictConfig, open_dict

from trainer.benchmark import cards, peak, programs
from trainer.benchmark.cards import GB, GIB, Card
from trainer.benchmark.count import Work, count
from trainer.benchmark.model import Interconnect, fitted
from trainer.benchmark.probe import sweep
from trainer.benchmark.step_time import speed
from trainer.process.progress import say

COPY = 2**26  # bytes
STEPS = 20  # of training


def measured(cfg: DictConfig, images: int) -> tuple[Work, Card, str]:
    """What a step asks for, the card, and how it was found.

    Products and memory give the peaks, steps of the experiment the share of them that its operators reach, two
    processes the links of a CPU (of a GPU: those of its data sheet). Ranks on a CPU share its cores.
    """
    gpu = torch.cuda.is_available()
    busy = os.getloadavg()[0]
    with open_dict(cfg):
        cfg.data.batch_size = images
    found = speed(cfg, None)
    work = count(cfg)
    card = of_gpu() if gpu else of_cpu(measured_links())
    ideal = replace(card, of_peak=1.0, of_memory=1.0, launch_us=1e-6)
    roof = sum(programs.seconds(f.forward + f.backward, ideal, images, work.accumulate) for f in work.phases.values())
    roof += sum(programs.stepping(work, name, "ddp", 1, ideal) for name in work.phases)
    reached = roof / found["step_s"]
    say(f"a step of {images} images takes {1000 * found['step_s']:,.0f} ms here, {reached:.0%} of the roofline")
    card = replace(ideal, of_peak=reached, of_memory=reached, busy=0.0 if gpu else busy)
    cpu = f"a CPU of {os.cpu_count()} cores, {torch.get_num_threads()} a rank, {busy:.1f} other processes at work"
    where = torch.cuda.get_device_name() if gpu else cpu
    return work, card, f"measured here on {where}: a step of {images} images in {1000 * found['step_s']:,.1f} ms"


def of_gpu() -> Card:
    name = torch.cuda.get_device_name()
    card = cards.known(name) or cards.CARDS["H100"]
    memory = torch.cuda.get_device_properties(0).total_memory / GB
    rates = {key: best_product(dtype) / 1e12 for key, dtype in (("16", torch.bfloat16), ("32", torch.float32))}
    return replace(
        card, tflops_16=rates["16"], tflops_tf32=rates["32"], tflops_32=rates["32"], memory_gb=memory,
        memory_gb_s=copying("cuda"),
    )  # fmt: skip


def best_product(dtype: torch.dtype, size: int = 8192) -> float:
    """FLOP/s of the fastest of ten matrix products on a GPU."""
    a, b = torch.randn(2, size, size, device="cuda").to(dtype)
    times = []
    for _ in range(11):
        torch.cuda.synchronize()
        start = time.perf_counter()
        a @ b
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)


def of_cpu(links: Interconnect) -> Card:
    tflops = [peak.of_cpu(dtype) / 1e12 for dtype in (torch.bfloat16, torch.float32)]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GB
    cores = os.cpu_count() or 1
    link = links.intra_gib_s * GIB / GB
    return Card(
        tflops[0], tflops[1], tflops[1], memory, copying("cpu"), link, 8 * link, per_node=2**20, of_link=1.0,
        intra_us=links.latency_us, inter_us=links.latency_us, carries=cores / torch.get_num_threads(),
    )  # fmt: skip


def copying(device: str) -> float:
    """GB/s of memory that a copy reads and writes."""
    source, target = torch.ones(2, COPY // 4, device=device)
    times = []
    for _ in range(10):
        start = time.perf_counter()
        target.copy_(source)
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 2 * COPY / median(times) / GB


def measured_links() -> Interconnect:
    """Between two processes of this machine, from the all_reduces of a range of sizes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with TemporaryDirectory() as folder:
        file = str(Path(folder, "sweep.json"))
        torch.multiprocessing.spawn(two, (port, file), nprocs=2)
        rows = json.loads(Path(file).read_text(encoding="utf-8"))
    return fitted(rows, 2)


def two(rank: int, port: int, file: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    rows = sweep(torch.device("cpu"))
    if rank == 0:
        Path(file).write_text(json.dumps(rows), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()
