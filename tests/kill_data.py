"""A training on a set of any size, killed at random moments, and one that was left alone; not run by pytest.

    python tests/kill_data.py TARS cache=CACHE seed=0          # in an empty folder; prints what is equal in the end

TARS and their index as of `tests/time_data.py` and `trainer.prepare`. Ranks: the stream of 1, 2 and 3 of them, too.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

KILLS = 4  # at most
POSITIONS = (0, 64_000, 950_000, 2_850_000, 44_800_000)
SMALL = [
    *("+experiment=cgan", "data=webdataset", "data.decoded=false", "data.heldout_images=50000", "data.resolution=64"),
    *("data.batch_size=32", "data.num_workers=1", "text=scratch", "text.width=16", "text.network.num_layers=1"),
    *("objective.generator.base_channels=8", "objective.generator.max_channels=8"),
    *("objective.discriminator.base_channels=8", "objective.discriminator.max_channels=8"),
    *("callbacks.evaluation=null", "callbacks.samples=null", "callbacks.checkpoint.times=8", "logger.wandb=null"),
    "kimg=9.6",
]


def start(*words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "trainer", *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def killed(data: list[str], seconds: float, rng: random.Random) -> int:
    """Trains in the folder `killed` until it is done; how often it was killed, within shares of `seconds`."""
    process, kills = start(*SMALL, *data, "run_dir=killed"), 0
    while True:
        try:
            code = process.wait(rng.uniform(0.3, 0.9) * seconds if kills < KILLS else None)
            assert code == 0, code
            return kills
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            there = sorted(path.name for path in Path("killed/checkpoints").glob("*.ckpt"))
            print(f"killed, {there[-1] if there else 'nothing'} is there", flush=True)
            process = start("resume=killed") if there else start(*SMALL, *data, "run_dir=killed")


def flat(node: Any) -> list[Any]:
    if isinstance(node, dict):
        return [each for key in sorted(node, key=str) for each in flat(node[key])]
    return [each for part in node for each in flat(part)] if isinstance(node, list | tuple) else [node]


def same(one: Any, other: Any) -> str:
    pairs = [*zip(flat(one), flat(other), strict=True)]
    equal = sum(bool(torch.equal(a, b)) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)
    return f"{equal} of {len(pairs)}"


def ranks(tars: str, cache: str) -> str:
    from time_data import data

    module = data(Path(tars), Path(cache), 64, decoded=False, workers=0)
    module.prepare()
    stream, count = module.train_dataloader().dataset, 0
    for position in POSITIONS:
        for world in (1, 2, 3):
            stream.first, stream.size = 0, 60
            whole, parts = stream[position], []
            for rank in range(world):
                stream.first, stream.size = rank * 60 // world, 60 // world
                parts.append(stream[position])
            for read in (lambda b: b.image, lambda b: b.caption, lambda b: b.condition.tokens):
                assert torch.equal(torch.cat([read(part) for part in parts]), read(whole)), (position, world)
            count += 1
    return f"{count} batches of 60 by 1, 2 and 3 ranks: the same pictures, captions and tokens"


def main() -> None:
    tars, *words = sys.argv[1:]
    given = dict(word.split("=") for word in words)
    cache = given.get("cache", "cache")
    data = [f"data.source.path={tars}", f"data.cache_dir={cache}"]
    print(ranks(tars, cache), flush=True)
    began = time.monotonic()
    assert start(*SMALL, *data, "run_dir=straight").wait() == 0
    kills = killed(data, time.monotonic() - began, random.Random(int(given.get("seed", 0))))

    from trainer.runs import checkpoint

    one, other = (checkpoint.read(checkpoint.newest(Path(run))) for run in ("straight", "killed"))
    assert one["images_seen"] == other["images_seen"] and one["DataModule"] == other["DataModule"]
    weights, states = (same(one[key], other[key]) for key in ("state_dict", "optimizer_states"))
    print(f"{kills} kills, {one['images_seen']:,} images: {weights} weights the same bits, {states} of the optimisers")


if __name__ == "__main__":
    main()
