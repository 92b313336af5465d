"""Weak and strong scaling: the verb starts itself, once for each number of ranks and repeat."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig

from trainer.benchmark.measure import line, medians
from trainer.errors import UserError
from trainer.process.progress import say

FROM_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
TAIL = 15  # lines of a launch that failed


@dataclass(frozen=True)
class Point:
    """Processes that run at once, each with `images` a step: ranks of one run, or with `apart` runs of their own.

    Runs apart show what it costs to share the machine, its memory bandwidth above all, without communication.
    """

    ranks: int
    images: int
    apart: bool = False

    def __str__(self) -> str:
        kind = ("processes apart" if self.apart else "ranks") if self.ranks > 1 else "rank"
        return f"{self.ranks} {kind}, {self.images} images each"


def scaling(cfg: DictConfig) -> dict[str, Any]:
    """What one rank measures, and under `scaling` a row for each number of ranks, weak and strong.

    weak: `data.batch_size` images on each rank. strong: as many in all. One rank is the base of both.
    Efficiency is images/s per rank against that of one rank. `apart` is the speed of as many processes apart.
    """
    counts = rank_counts(cfg)
    threads = int(os.environ.get("OMP_NUM_THREADS") or max(1, (os.cpu_count() or 1) // counts[-1]))
    size = cfg.data.batch_size
    shapes = [("weak", r, size) for r in counts] + [("strong", r, size // r) for r in counts]
    points = list(dict.fromkeys(Point(r, n, a and r > 1) for _, r, n in shapes for a in (False, True)))
    total = 1 + cfg.repeats * len(points)
    say(f"{total} launches on 1 to {counts[-1]} ranks, threads a rank: {threads}")
    parts = Path(cfg.out, "parts")
    (result,) = launch(parts / "base", Point(1, size), threads, cfg.bare, cfg.probe, cfg.repeats)
    say(f"1/{total}  1 rank, {size} images: {line(result['speed'])}")

    runs: dict[Point, list[dict[str, Any]]] = {point: [] for point in points}
    for repeat in range(1, cfg.repeats + 1):  # in turn: a drifting machine is as fast for the one as for the other
        for point in points:
            folder = parts / f"{point}, run {repeat}".replace(", ", "-").replace(" ", "-")
            probe = cfg.probe and repeat == 1 and not point.apart
            done = launch(folder, point, threads, bare=False, probe=probe, repeats=1)
            runs[point] += done
            number = 1 + len(points) * (repeat - 1) + points.index(point) + 1
            say(f"{number}/{total}  {point}: {line(medians([run['speed'] for run in done]))}")
    result["strategy"] = runs[Point(counts[-1], size)][0]["strategy"]
    base = Point(1, size)
    result["scaling"] = [row(mode, runs, Point(ranks, images), base) for mode, ranks, images in shapes]
    return result


def row(mode: str, runs: dict[Point, list[dict[str, Any]]], point: Point, base: Point) -> dict[str, Any]:
    def speed(of: Point) -> Any:
        return medians([run["speed"] for run in runs[of]])

    own = speed(point)
    return {
        "mode": mode,
        **own,
        "efficiency": own["images_per_second"] / point.ranks / speed(base)["images_per_second"],
        "apart": speed(Point(point.ranks, point.images, apart=True) if point.ranks > 1 else point),
        "runs_step_s": [run["speed"]["step_s"] for run in runs[point]],
        "probe": runs[point][0]["probe"],
    }


def rank_counts(cfg: DictConfig) -> list[int]:
    """The numbers of ranks in order, 1 among them."""
    import torch

    given: Any = list(cfg.ranks) if isinstance(cfg.ranks, ListConfig) else cfg.ranks
    if not isinstance(given, list) or not all(isinstance(r, int) and r > 0 for r in given):
        raise UserError(f"ranks={given}: expected a list of numbers of ranks, as ranks=[1,2,4]")
    counts = sorted({1, *given})
    if "RANK" in os.environ:
        raise UserError(f"ranks={given} starts torchrun itself; within torchrun leave it out")
    gpus = torch.cuda.device_count()
    if gpus and counts[-1] > gpus:
        raise UserError(f"ranks={given}: {gpus} GPUs are visible here, and each rank needs one; lower ranks")
    if counts[-1] > 1 and cfg.strategy._target_.endswith(".Single"):
        raise UserError(f"ranks={given}: strategy=single trains on one rank; choose strategy=ddp or another")
    for ranks in counts:
        if cfg.data.batch_size % (2 * ranks):
            raise UserError(
                f"ranks={given}: data.batch_size={cfg.data.batch_size} does not split into even parts for "
                f"{ranks} ranks; make it a multiple of {2 * ranks}"
            )
    return counts


def launch(folder: Path, point: Point, threads: int, bare: bool, probe: bool, repeats: int) -> list[dict[str, Any]]:
    """benchmark.json of each run at this point, one or `ranks` apart; what they print goes to log.txt beside it."""
    ranks = 1 if point.apart else point.ranks
    options = {
        "data.batch_size": point.images * ranks,
        "ranks": "null",
        "repeats": repeats,
        "bare": str(bare).lower(),
        "probe": str(probe).lower(),
    }
    launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"] if ranks > 1 else []
    overrides = [*sys.argv[1:], *(f"{key}={value}" for key, value in options.items())]
    command = [sys.executable, "-m", *launcher, "trainer.benchmark", *overrides]
    kept = {k: v for k, v in os.environ.items() if k not in FROM_LAUNCHER and not k.startswith("TORCHELASTIC")}
    kept["OMP_NUM_THREADS"] = str(threads)
    folders = [folder / str(number) for number in range(point.ranks)] if point.apart else [folder]
    processes = []
    try:
        for number, each in enumerate(folders):
            each.mkdir(parents=True, exist_ok=True)
            gpu = {"CUDA_VISIBLE_DEVICES": visible(number)} if point.apart else {}
            with open(each / "log.txt", "w", encoding="utf-8") as log:
                arguments = [*command, f"out={each}"]
                processes.append(
                    subprocess.Popen(arguments, env=kept | gpu, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
                )
        for process, each in zip(processes, folders, strict=True):
            if process.wait():
                for text in reason((each / "log.txt").read_text(encoding="utf-8")):
                    say(f"  {text}")
                raise UserError(f"{point}: ended with code {process.returncode}; its lines are above, all in {each}")
    finally:
        for process in processes:
            process.terminate()
    return [json.loads((each / "benchmark.json").read_text(encoding="utf-8")) for each in folders]


def reason(log: str) -> list[str]:
    """The last lines of a log before torchrun's own account of a failure."""
    own, _, _ = log.partition("torch/distributed/elastic/")
    return (own if own == log else own[: own.rfind("\n")]).splitlines()[-TAIL:]


def visible(number: int) -> str:
    """CUDA_VISIBLE_DEVICES for a process that shall see only the GPU of this number; '' where there are none."""
    given = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    import torch

    return (given or [str(gpu) for gpu in range(torch.cuda.device_count())] + [""] * (number + 1))[number]
