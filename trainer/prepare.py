"""Data made ready before a run: python -m trainer.prepare +experiment=cgan data=webdataset data.source.path=TARS"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from trainer.config.entry import Training, entry
from trainer.errors import UserError
from trainer.process import ranks


@dataclass
class Preparing(Training):
    """Keys of a training run, and of what is made ready for it: conf/prepare.yaml explains them."""

    objective: Any = None
    processes: int | None = None
    unused_days: float | None = None
    prune: bool = False


def prepare(cfg: DictConfig) -> None:
    """Makes the cache or index of a run's data and its text features, or tells what of these nobody uses."""
    if cfg.prune and cfg.unused_days is None:
        raise UserError("prune=true: expected unused_days=30, or another number: what has been used since then stays")
    if cfg.processes is not None and cfg.processes < 1:
        raise UserError(f"processes={cfg.processes}: expected 1 or more")
    if cfg.unused_days is not None:
        tell_unused(cfg)
    elif cfg.launch:
        from hydra.utils import instantiate

        instantiate(cfg.launch, _convert_="all").submit_preparing(cfg, Path(cfg.run_dir).absolute())
    else:
        make(cfg)


def make(cfg: DictConfig) -> None:
    from hydra.utils import instantiate

    from trainer.data import index, preparing

    config: Any = OmegaConf.to_container(cfg, resolve=True)
    text = instantiate(config["text"]["encoder"])
    data = instantiate(config["data"], text=text, _convert_="all")
    began, count = time.monotonic(), 1
    folder = data.folder()
    was_there = folder.exists()
    if not data.decoded and not was_there:
        count = processes(cfg)
        if count > 1:
            preparing.build_together(data.source, folder, count)
        else:
            index.build(data.source, folder, threads=1)
    if ranks.rank():  # the rest is the work of one
        return
    data.prepare_data()
    cache, seconds = data.train.cache, time.monotonic() - began
    skipped = num_lines(data.skipped)
    rows = {
        "folder": folder,
        "pictures": f"{len(data.train):,} to train on, {len(data.heldout):,} held out, {skipped:,} left out as corrupt",
        "captions": f"{len(cache.captions):,} distinct",
        "size": f"{size(folder) / 2**20:,.1f} MiB",
        "made": "before" if was_there else f"in {seconds:.1f} s by {count} process{'es' * (count > 1)}",
    }
    print("\n".join(f"  {key:<10}  {value}" for key, value in rows.items()), flush=True)


def processes(cfg: DictConfig) -> int:
    """As many as the user says; else one where a launcher has started several, or one for each core."""
    if cfg.processes is not None:
        return int(cfg.processes)
    if ranks.launcher_size() is not None:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def tell_unused(cfg: DictConfig) -> None:
    from trainer.data.module import default_cache_dir
    from trainer.data.preparing import kept, programs, remove

    root = cfg.data.cache_dir or default_cache_dir()
    every = [*kept(root), *programs()]
    least = {True: cfg.unused_days, False: max(cfg.unused_days, 1.0)}  # others may be at work on what is not whole
    unused = [each for each in every if each.days >= least[each.whole]]
    for each in unused:
        print(f"  {each.size / 2**20:>10,.1f} MiB  {each.days:>6.1f} days  {each.path.name}")
        if cfg.prune:
            remove(each)
    done = "removed" if cfg.prune else "prune=true removes them"
    total = f"{sum(each.size for each in unused) / 2**20:,.1f} of {sum(each.size for each in every) / 2**20:,.1f} MiB"
    print(f"{root}: {len(unused)} of {len(every)} unused for {cfg.unused_days:g} days, {total}; {done}", flush=True)


def num_lines(file: Path) -> int:
    return len(file.read_bytes().splitlines()) if file.is_file() else 0


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def main() -> None:
    entry(prepare, "prepare", Preparing)


if __name__ == "__main__":
    main()
