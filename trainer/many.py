"""python -m trainer.sample with images_per_file: this process draws, or starts others, or hands all to a cluster."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from trainer import bulk, ranks
from trainer.errors import UserError


def sample_many(cfg: DictConfig, seeds: list[int] | None, device: str | None) -> None:
    """Tars of images of all lines of cfg.prompts_file; seeds: None for each line's own number."""
    if not cfg.prompts_file or cfg.prompts or cfg.prompts_file == "-":
        raise UserError(f"images_per_file={cfg.images_per_file}: expected prompts_file=FILE, and no prompts beside it")
    if cfg.images_per_file < 1:
        raise UserError(f"images_per_file={cfg.images_per_file}: expected 1 or more")
    if cfg.out is None:
        raise UserError("images_per_file: expected out=FOLDER, where the files go")
    plan = bulk.Plan(bulk.read_lines(cfg.prompts_file), seeds, cfg.images_per_file)
    folder = Path(cfg.out).expanduser()
    if cfg.launch:
        from hydra.utils import instantiate

        instantiate(cfg.launch, _convert_="all").submit_sampling(cfg, folder)
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out={folder}: {error.strerror}; name a folder that can be made") from error
    if ranks.launched() is None and processes(cfg, device) > 1:
        start(processes(cfg, device), plan, folder)
    else:
        work(cfg, plan, folder, device)


def processes(cfg: DictConfig, device: str | None) -> int:
    """As many as the user says, else one for each GPU or each CPU core."""
    if cfg.processes is not None:
        if cfg.processes < 1:
            raise UserError(f"processes={cfg.processes}: expected 1 or more")
        return int(cfg.processes)
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return torch.cuda.device_count() if torch.cuda.is_available() and device != "cpu" else cores


def start(count: int, plan: bulk.Plan, folder: Path) -> None:
    """This command again as `count` processes; UserError if one fails or files stay missing."""
    before, began = len(bulk.missing(plan, folder)), time.monotonic()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that `finally` ends the others
    rank = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    command = [sys.executable, "-m", "trainer.sample", *sys.argv[1:]]
    others = [
        subprocess.Popen(command, env={**os.environ, **rank, "RANK": str(i), "LOCAL_RANK": str(i)})
        for i in range(count)
    ]
    try:
        codes = [other.wait() for other in others]
    finally:
        for other in others:
            other.terminate()
    left = len(bulk.missing(plan, folder))
    failed = [f"process {i} ended with {code}" for i, code in enumerate(codes) if code]
    if 2 in codes and left == before:  # it has told why
        sys.exit(2)
    if left or failed:
        told = ", ".join(failed) or "others may work on them"
        raise UserError(f"{left} of {plan.num_files} files are not there ({told}): the same command goes on")
    rate = min((before - left) * plan.images_per_file, len(plan)) / (time.monotonic() - began)
    print(f"{folder}: {plan.num_files} files, {len(plan)} images, {rate:.1f} images/s with {count} processes")


def work(cfg: DictConfig, plan: bulk.Plan, folder: Path, device: str | None) -> None:
    """One process's share."""
    import torch

    from trainer.pipeline import load

    if device is None and torch.cuda.is_available():
        device = f"cuda:{int(os.environ.get('LOCAL_RANK', os.environ.get('SLURM_LOCALID', 0)))}"
    torch.set_num_threads(1)  # where there are other threads kernels round otherwise: the bytes must not hang on that
    pipe = load(cfg.checkpoint, device, cfg.batch_size, compiled=cfg.compile)
    sampler = pipe.sampler
    kernels: dict[str, Any] = {"device": sampler.device.type}
    if sampler.fixed:
        kernels |= {"batch_size": sampler.batch_size, "compile": bool(cfg.compile)}
    bulk.agree(folder, {"checkpoint": digest(pipe.path), **plan.settings(), **kernels})
    if cfg.batch_size is None and not sampler.fixed and bulk.missing(plan, folder):
        sampler.batch_size = fastest(pipe, [row[1] for _, row in plan.rows(0)])
    rank, count = ranks.rank(), int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", 1)))
    drawn, seconds = bulk.draw(pipe, plan, folder, rank / max(count, 1), tell=rank == 0)
    rate = drawn / seconds if drawn else 0
    left = len(bulk.missing(plan, folder))
    state = "all files are there" if not left else f"{left} files not yet there"
    print(f"{socket.gethostname()} process {rank}: {drawn} images, {rate:.1f} images/s; {state}", flush=True)


def fastest(pipe: Any, captions: list[str]) -> int:
    """Images at a time, of 16, 32, 64 and 128, that are drawn quickest."""
    seconds: dict[int, float] = {}
    for size in (16, 32, 64, 128):
        some = (captions * size)[:size]
        pipe.sampler.batch_size = size
        pipe.sampler(some, range(size))  # the first time of a size is another
        began = time.perf_counter()
        pipe.sampler(some, range(size))
        seconds[size] = (time.perf_counter() - began) / size
        if seconds[size] > 1.05 * min(seconds.values()) or began - time.perf_counter() < -5:
            break
    return min(seconds, key=seconds.__getitem__)


def digest(path: Path) -> str:
    """Of a checkpoint's content."""
    files = sorted(path.glob("rank*.pt")) if path.is_dir() else [path]
    sha = hashlib.sha256()
    for file in files:
        with open(file, "rb") as stream:
            sha.update(hashlib.file_digest(stream, "sha256").digest())
    return sha.hexdigest()[:16]
