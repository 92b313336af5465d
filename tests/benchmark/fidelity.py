"""The simulation against what 1, 2 and 4 ranks of DDP really take: python tests/benchmark/fidelity.py

A machine that others use is slow now and quick then, so everything is measured in turns, step by step, in one launch:
a step of all ranks together; the same step of all ranks at once, each for itself, without a word to the others; the
reductions alone. The last two are what the simulation knows, the first is what it must say. Ranks that are more than
there are cores share them in both kinds of step, and so does whatever else runs.

A second forecast knows one rank alone: its computing, times what the cores' equal shares among ranks and other
processes make of it (`Card.crowd`), and the reductions.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist

from trainer.benchmark import __main__ as verb
from trainer.benchmark.cards import CARDS
from trainer.benchmark.count import Network, Phase, Work
from trainer.benchmark.fit import fit
from trainer.benchmark.model import BUCKETS
from trainer.benchmark.probe import gather
from trainer.benchmark.programs import program
from trainer.benchmark.timeline import Cluster, Compute, Jitter, simulate
from trainer.report.table import markdown

ROOT = Path(__file__).parents[2]
RANKS = (1, 2, 4)
PAIRS = 24  # of steps: one together, one apart
WARM_UP = 6
ARGUMENTS = ["experiment=cgan", "strategy=ddp", "objective.penalty_interval=1"]
IMAGES = 32  # on each rank


class Turns(pl.Callback):
    """Steps together and apart in turn, then the reductions of a step."""

    def plan(self, objective: Any) -> int:
        return WARM_UP + 2 * PAIRS

    def on_train_start(self, trainer: Any, objective: Any) -> None:
        self.rows: dict[str, list[Any]] = {"together": [], "apart": [], "reduce": []}
        self.passes: dict[str, float] = {}
        names = list(objective.phases)
        step, backward = trainer.strategy.optimizer_step, trainer.strategy.backward
        number = {id(optimizer): name for optimizer, name in zip(trainer.optimizers, names, strict=True)}

        def timed_backward(value: Any, optimizer: Any, sync: bool = True) -> None:
            name, start = number[id(optimizer)], time.perf_counter()
            self.passes[f"{name} forward"] = start - self.last
            backward(value, optimizer, sync and self.together)
            self.last = time.perf_counter()
            self.passes[f"{name} backward"] = self.last - start

        def timed_step(optimizer: Any, *arguments: Any, **options: Any) -> Any:
            done = step(optimizer, *arguments, **options)
            now = time.perf_counter()
            self.passes[f"{number[id(optimizer)]} step"], self.last = now - self.last, now
            return done

        trainer.strategy.backward, trainer.strategy.optimizer_step = timed_backward, timed_step

    def on_train_batch_start(self, trainer: Any, objective: Any, *_: Any) -> None:
        self.together = trainer.global_step % 2 == 0
        self.world = trainer.world_size
        self.meet()
        self.start = self.last = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, objective: Any, *_: Any) -> None:
        seconds = time.perf_counter() - self.start
        if trainer.global_step <= WARM_UP:
            return
        if self.together:
            self.rows["together"].append(seconds)
            return
        self.rows["apart"].append(self.passes | {"rest": seconds - sum(self.passes.values())})
        self.rows["reduce"].append(self.collectives(objective))

    def collectives(self, objective: Any) -> Any:
        """Seconds of what the ranks send each other in a step, each by itself."""
        return {name: self.reductions(objective, name) for name in objective.phases}

    def meet(self) -> None:
        if self.world > 1:
            dist.barrier()

    def reductions(self, objective: Any, name: str) -> list[float]:
        """Seconds of each bucket's all_reduce."""
        size = sum(p.nbytes for p in objective.network(name).parameters())
        taken = []
        for count in [each for each in (min(size, BUCKETS[0]), size - BUCKETS[0]) if each > 0 and self.world > 1]:
            bucket = torch.zeros(count // 4)
            self.meet()
            start = time.perf_counter()
            dist.all_reduce(bucket)
            taken.append(time.perf_counter() - start)
        return taken


def work(folder: str) -> None:
    """On each rank: measures, and rank 0 writes what all have found."""
    def measure(cfg: Any) -> None:
        found = gather(fit(cfg, Turns()).rows)
        if os.environ.get("RANK", "0") == "0":
            Path(folder, "rows.json").write_text(json.dumps(found))
        if dist.is_initialized():  # else threads of a rank that ends first may end it by abort
            dist.barrier()
            dist.destroy_process_group()

    verb.benchmark = measure
    sys.argv[1:] = [*ARGUMENTS, f"data.batch_size={IMAGES * int(os.environ.get('WORLD_SIZE', 1))}"]
    verb.main()


def launch(ranks: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        command += [__file__, "--work", folder]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr[-3000:])
        return json.loads(Path(folder, "rows.json").read_text())


class Timed:
    """Links whose reductions take what was measured, in the order in which the program asks for them."""

    def __init__(self, seconds: list[float]) -> None:
        self.seconds_left = list(seconds)

    def seconds(self, *_: Any) -> float:
        return self.seconds_left.pop(0)


def predicted(passes: dict[str, float], spread: float, reduce: dict[str, list[float]], ranks: int) -> float:
    """Median seconds of a simulated step of DDP."""
    sizes = {name: 2**20 * (1 + 25 * (len(taken) > 1)) for name, taken in reduce.items()}
    networks = {name: Network(size, [size // 4], 1, size, 2, False) for name, size in sizes.items()}
    compute = {name: tuple(passes[f"{name} {part}"] for part in ("forward", "backward", "step")) for name in reduce}
    links: Any = Timed([second for taken in reduce.values() for second in taken])
    whole = Work({name: Phase() for name in reduce}, networks, 0, 0, 1, False)
    events = [Compute(passes["rest"], "rest"), *program("ddp", whole, compute, links, ranks, ahead=False)]
    return float(np.median(simulate(events, Cluster(ranks, Jitter(spread)), 400).step_s))


def spread_of(values: list[list[float]]) -> float:
    """Relative standard deviation of (steps, passes), weighed by the passes' time, without its outliers."""
    low, middle, high = np.quantile(np.array(values), [0.16, 0.5, 0.84], axis=0)
    return float(((high - low) / 2).sum() / middle.sum())


def row(ranks: int, found: list[dict[str, Any]], alone: dict[str, Any] | None, load: float) -> dict[str, Any]:
    """What was measured on so many ranks, and what the simulation says that knows their steps apart, or one rank's."""
    apart = [each for rank in found for each in rank["apart"]]
    passes = {key: median(each[key] for each in apart) for key in apart[0]}
    spread = spread_of([list(each.values()) for each in apart])
    samples = [each for rank in found for each in rank["reduce"]]
    reduce = {name: [median(times) for times in zip(*(s[name] for s in samples), strict=True)] for name in samples[0]}
    own = {"passes": passes, "spread": spread, "load": load}
    first = alone or own
    card = replace(CARDS["H100"], carries=float(os.cpu_count() or 1), busy=first["load"])
    crowded = {key: card.crowd(ranks) * seconds for key, seconds in first["passes"].items()}
    return own | {
        "ranks": ranks,
        "apart_s": sum(passes.values()),
        "reduce_s": sum(map(sum, reduce.values())),
        "measured_s": median(max(each) for each in zip(*(rank["together"] for rank in found), strict=True)),
        "simulated_s": predicted(passes, spread, reduce, ranks),
        "from_one_s": predicted(crowded, first["spread"], reduce, ranks),
    }


def main() -> None:
    rows: list[dict[str, Any]] = []
    for ranks in RANKS:
        load = os.getloadavg()[0]
        rows.append(row(ranks, launch(ranks), rows[0] if rows else None, load))
        print(f"{ranks} ranks: {json.dumps(rows[-1])}", file=sys.stderr, flush=True)
    head = ["ranks", "apart ms", "spread", "reductions ms", "measured ms", "simulated ms", "error", "of one", "error"]
    cells = []
    for each in rows:
        times = [f"{1000 * each[key]:,.0f}" for key in ("measured_s", "simulated_s", "from_one_s")]
        errors = [f"{each[key] / each['measured_s'] - 1:+.1%}" for key in ("simulated_s", "from_one_s")]
        known = [f"{1000 * each['apart_s']:,.0f}", f"{each['spread']:.0%}", f"{1000 * each['reduce_s']:,.1f}"]
        cells.append([str(each["ranks"]), *known, times[0], times[1], errors[0], times[2], errors[1]])
    print(markdown(head, cells))


if __name__ == "__main__":
    work(sys.argv[2]) if sys.argv[1:2] == ["--work"] else main()
