"""python -m trainer.sample with images_per_file: this process draws, or starts others, or hands all to a cluster."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from trainer.errors import UserError
from trainer.pretrained.weights import sha256
from trainer.process import ranks
from trainer.process.progress import say
from trainer.runs import checkpoint_files
from trainer.runs.export_files import MODELS, SETTINGS, is_program, tokenizer_of
from trainer.sampling import shards
from trainer.sampling.conditioning import Conditioning

if TYPE_CHECKING:
    from trainer.sampling.sampler import Sampler

LARGEST = 128  # images at a time
SAME = {  # what is promised of an image, whoever draws it
    "cpu": "bits on machines with the same kernels, else to a grey level",
    "fixed": "to a grey level",
}


def sample_many(cfg: DictConfig, seeds: list[int] | None, conditioning: Conditioning) -> None:
    """Tars of images of all lines of cfg.prompts_file; seeds: None for each line's own number."""
    if not cfg.prompts_file or cfg.prompts or cfg.prompts_file == "-":
        raise UserError(f"images_per_file={cfg.images_per_file}: expected prompts_file=FILE, and no prompts beside it")
    if cfg.images_per_file < 1:
        raise UserError(f"images_per_file={cfg.images_per_file}: expected 1 or more")
    if cfg.out is None:
        raise UserError("images_per_file: expected out=FOLDER, where the files go")
    if cfg.mode == "latency":
        raise UserError("mode=latency: images_per_file draws in batches; leave mode out")
    plan = shards.Plan(shards.read_lines(cfg.prompts_file), seeds, cfg.images_per_file)
    folder = Path(cfg.out).expanduser()
    if cfg.launch:
        from hydra.utils import instantiate

        instantiate(cfg.launch, _convert_="all").submit_sampling(cfg, folder)
        return
    ranks.check(cfg.nodes, cfg.gpus_per_node)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out={folder}: {error.strerror}; name a folder that can be made") from error
    device = cfg.device or ("cpu" if cfg.gpus_per_node == 0 else None)
    if ranks.launcher_size() is None and processes(cfg, device) > 1:
        start(processes(cfg, device), plan, folder)
    else:
        work(cfg, plan, folder, device, conditioning)


def processes(cfg: DictConfig, device: str | None) -> int:
    """As many as the user says, else one for each GPU or each CPU core."""
    if cfg.processes is not None:
        if cfg.processes < 1:
            raise UserError(f"processes={cfg.processes}: expected 1 or more")
        return int(cfg.processes)
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return torch.cuda.device_count() if torch.cuda.is_available() and device != "cpu" else cores


def start(count: int, plan: shards.Plan, folder: Path) -> None:
    """This command again as `count` processes; UserError if files stay missing."""
    before, began = len(shards.missing(plan, folder)), time.monotonic()
    rank = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    command = [sys.executable, "-m", "trainer.sample", *sys.argv[1:]]
    environments = [{**os.environ, **rank, "RANK": str(i), "LOCAL_RANK": str(i)} for i in range(count)]
    others = [subprocess.Popen(command, env=each, stdout=subprocess.PIPE, text=True) for each in environments]
    try:
        words = "".join([other.communicate()[0] for other in others])
    finally:
        for other in others:
            other.terminate()
    print(words, end="", flush=True)
    left = len(shards.missing(plan, folder))
    codes = [other.returncode for other in others]
    failed = [f"process {i} ended with {code}" for i, code in enumerate(codes) if code]
    if 2 in codes and left == before:  # it has told why
        sys.exit(2)
    if left:
        told = ", ".join(failed) or "others may work on them"
        raise UserError(f"{left} of {plan.num_files} files are not there ({told}): the same command goes on")
    if failed:
        say(f"{', '.join(failed)}, the others drew its files")
    shares = [(int(images), float(seconds)) for images, seconds in re.findall(r"(\d+) images in ([\d.]+) s", words)]
    images, whole = sum(images for images, _ in shares), time.monotonic() - began
    drawing = max([seconds for _, seconds in shares] + [0.01])
    print(
        f"{folder}: all {plan.num_files} files; {images} images in {whole:.1f} s with {count} processes, "
        f"{images / whole:.1f} images/s; {images / drawing:.1f} images/s without their start"
    )


def work(cfg: DictConfig, plan: shards.Plan, folder: Path, device: str | None, conditioning: Conditioning) -> None:
    """One process's share."""
    import torch

    from trainer.sampling.given import Given
    from trainer.sampling.pipeline import load

    if device is None and torch.cuda.is_available():
        device = f"cuda:{int(os.environ.get('LOCAL_RANK', os.environ.get('SLURM_LOCALID', 0)))}"
    torch.set_num_threads(1)  # where there are other threads kernels round otherwise: the bytes must not hang on that
    pipe = load(cfg.checkpoint, device, cfg.batch_size, compiled=cfg.compile, draws_only=True)
    pipe = pipe.conditioned(**asdict(conditioning))
    sampler = pipe.sampler
    sampler.fixed |= is_program(pipe.path)  # another runtime may round otherwise at another size, at 16 rows as at 1
    sampler.keep_bits()
    given = Given.of(pipe, plan, cfg.source, cfg.mask)
    kernels: dict[str, Any] = {"device": sampler.device.type, "same": SAME["fixed" if sampler.fixed else "cpu"]}
    if sampler.fixed:
        kernels |= {"batch_size": sampler.batch_size, "compile": bool(cfg.compile)}
    kernels |= given.settings() if given else {}
    shards.agree(folder, {"checkpoint": digest(pipe.path), **plan.settings(), **kernels, **conditioning.settings()})
    rank, count = ranks.rank(), math.prod(ranks.launcher_size() or (1,))
    if cfg.batch_size is None and not sampler.fixed and given is None:
        share = len(shards.missing(plan, folder)) * plan.images_per_file // count
        sampler.batch_size = fastest(sampler, [prompt for _, prompt in plan.lines[:LARGEST]], share)
    drawn_of = given.draw if given else None
    drawn, seconds = shards.draw(pipe, plan, folder, rank / count, tell=rank == 0, drawn_of=drawn_of)
    left = len(shards.missing(plan, folder))
    state = "all files are there" if not left else f"{left} files not yet there"
    done = f"{drawn} images in {seconds:.2f} s, {drawn / seconds:.1f} images/s"
    print(f"{socket.gethostname()} process {rank}: {done}; {state}", flush=True)


def fastest(sampler: Sampler, captions: Sequence[str], count: int) -> int:
    """How many images at a time, of 16 to 128, are drawn quickest. Found in a tenth of the time that `count` take."""
    seconds: dict[int, float] = {}
    for size in (16, 32, 64, LARGEST):
        if size * 40 > count:  # this size and those before it draw four times as many images, all told
            break
        some, sampler.batch_size = [captions[i % len(captions)] for i in range(size)], size
        sampler(some, range(size))  # the first time of a size is another
        began = time.perf_counter()
        sampler(some, range(size))
        seconds[size] = (time.perf_counter() - began) / size
        if seconds[size] > 1.05 * min(seconds.values()):
            break
    return min(seconds, key=seconds.__getitem__, default=16)


def digest(path: Path) -> str:
    """Of all that a checkpoint draws with: its tensors or program, and the configuration of an export."""
    files = checkpoint_files.files_of(path)
    if is_program(path):
        files += filter(Path.is_file, [tokenizer_of(path)])
    sha = hashlib.sha256()
    for file in files:
        sha.update(bytes.fromhex(sha256(file)))
    if path.name in MODELS:  # not all of the file: it also lists programs that were exported beside
        config = json.loads(path.with_name(SETTINGS).read_text(encoding="utf-8"))["config"]
        sha.update(json.dumps(config, sort_keys=True).encode())
    return sha.hexdigest()[:16]
