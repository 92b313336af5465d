"""The simulation of FSDP2 and of ZeRO against two ranks: python tests/benchmark/fidelity_split.py [STRATEGY ...]

As `fidelity`, whose steps of all ranks together and of each for itself alternate within one launch. Where weights are
split a rank has no step without the others, so in its own steps collectives are answered on the spot: what is gathered
is a rank's share again and again, what is reduced is its own. The clock runs under the same watch in both.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import median
from typing import Any

import fidelity
import numpy as np
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FakeWork
from torch.utils._python_dispatch import TorchDispatchMode

from trainer.benchmark import __main__ as verb
from trainer.benchmark.count import count
from trainer.benchmark.fit import fit
from trainer.benchmark.model import Collective
from trainer.benchmark.probe import gather
from trainer.benchmark.programs import collectives, program
from trainer.benchmark.timeline import Cluster, Compute, Jitter, simulate
from trainer.report.table import markdown

PAIRS, RANKS = 12, 2
ARGUMENTS = ["experiment=cgan", "objective.penalty_interval=1", f"data.batch_size={RANKS * fidelity.IMAGES}"]


class Alone(TorchDispatchMode):
    """While `silent`, no collective leaves the rank."""

    silent = False

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.silent or operator.namespace not in ("c10d", "_c10d_functional"):
            return operator(*args, **(kwargs or {}))
        name = operator._opname.strip("_")
        if name == "wait_tensor":
            return args[0]
        if operator.namespace == "_c10d_functional":
            return args[0].clone() if name == "all_reduce" else operator(*args, **(kwargs or {}))
        if name in ("allgather", "allgather_base"):
            single = name == "allgather_base"
            pieces = args[0].view(dist.get_world_size(), -1) if single else args[0][0]
            for piece in pieces:
                piece.view(-1).copy_((args[1] if single else args[1][0]).view(-1))
        elif name in ("reduce_scatter", "reduce_scatter_base"):
            own, whole = (args[0][0], args[1][0][dist.get_rank()]) if name == "reduce_scatter" else args[:2]
            own.view(-1).copy_(whole.reshape(-1)[: own.numel()])
        elif name not in ("allreduce", "broadcast"):
            return operator(*args, **(kwargs or {}))
        return args[0], FakeWork().boxed()


@contextmanager
def agreeing(mode: Alone) -> Iterator[None]:
    """Within it DeepSpeed does not ask in a silent step whether the ranks fetch the same weights."""
    from deepspeed.runtime.zero import partitioned_param_coordinator as coordinator

    asks = coordinator.assert_ints_same_as_other_ranks
    coordinator.assert_ints_same_as_other_ranks = lambda numbers: None if mode.silent else asks(numbers)
    try:
        yield
    finally:
        coordinator.assert_ints_same_as_other_ranks = asks


class Turns(fidelity.Turns):
    """`reduce` has the seconds of each collective that the program asks for, by kind and bytes."""

    def __init__(self, wanted: list[Collective], mode: Alone) -> None:
        self.wanted, self.mode = wanted, mode

    def plan(self, objective: Any) -> int:
        return fidelity.WARM_UP + 2 * PAIRS

    def on_train_batch_start(self, trainer: Any, objective: Any, *rest: Any) -> None:
        super().on_train_batch_start(trainer, objective, *rest)
        self.mode.silent = not self.together

    def on_train_batch_end(self, trainer: Any, objective: Any, *rest: Any) -> None:
        self.mode.silent = False
        super().on_train_batch_end(trainer, objective, *rest)

    def collectives(self, objective: Any) -> list[float]:
        return [self.taken(each) for each in self.wanted]

    def taken(self, collective: Collective) -> float:
        """Seconds of one such collective."""
        part = torch.zeros(max(1, int(collective.bytes) // 4 // RANKS))
        whole = torch.zeros(RANKS * len(part))
        self.meet()
        start = time.perf_counter()
        if collective.kind == "all_gather":
            dist.all_gather_into_tensor(whole, part)
        elif collective.kind == "reduce_scatter":
            dist.reduce_scatter_tensor(part, whole)
        else:
            dist.all_reduce(whole)
        return time.perf_counter() - start


class Known:
    """Links on which each collective takes what was measured of it."""

    def __init__(self, wanted: list[Collective], seconds: list[float]) -> None:
        self.of = {(each.kind, each.bytes): taken for each, taken in zip(wanted, seconds, strict=True)}

    def seconds(self, collective: Collective, ranks: int) -> float:
        return self.of[collective.kind, collective.bytes]


def work(folder: str, strategy: str) -> None:
    """On each rank: measures, and rank 0 writes what all have found and what the simulation makes of it."""
    def measure(cfg: Any) -> None:
        asked = count(cfg)
        sent = [each for name in asked.phases for part in collectives(strategy, asked, name).values() for each in part]
        wanted = list({(each.kind, each.bytes): each for each in sent}.values())
        with Alone() as mode, agreeing(mode) if strategy == "zero3" else nullcontext():
            found = gather(fit(cfg, Turns(wanted, mode)).rows)
        if os.environ["RANK"] != "0":
            return
        apart = [each for rank in found for each in rank["apart"]]
        passes = {key: median(each[key] for each in apart) for key in apart[0]}
        spread = fidelity.spread_of([list(each.values()) for each in apart])
        taken = [median(each) for each in zip(*(row for rank in found for row in rank["reduce"]), strict=True)]
        compute = {n: tuple(passes[f"{n} {part}"] for part in ("forward", "backward", "step")) for n in asked.phases}
        links: Any = Known(wanted, taken)
        events = [Compute(passes["rest"], "rest"), *program(strategy, asked, compute, links, RANKS, ahead=False)]
        done = simulate(events, Cluster(RANKS, Jitter(spread)), 400).step_s
        result = {
            "strategy": strategy,
            "apart_s": sum(passes.values()),
            "spread": spread,
            "collectives": len(sent),
            "collectives_s": sum(links.seconds(each, RANKS) for each in sent),
            "measured_s": median(max(each) for each in zip(*(rank["together"] for rank in found), strict=True)),
            "simulated_s": float(np.median(done)),
        }
        Path(folder, "result.json").write_text(json.dumps(result))

    verb.benchmark = measure
    sys.argv[1:] = [*ARGUMENTS, f"strategy={strategy}"]
    verb.main()


def launch(strategy: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}"]
        command += [__file__, "--work", folder, strategy]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
        environment |= {"PYTHONPATH": str(fidelity.ROOT)}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr[-3000:])
        return json.loads(Path(folder, "result.json").read_text())


def main() -> None:
    rows = [launch(strategy) for strategy in sys.argv[1:] or ("fsdp", "zero1", "zero2", "zero3")]
    cells = [
        [
            *(f"`{each['strategy']}`", f"{1000 * each['apart_s']:,.0f}", f"{each['spread']:.0%}"),
            *(str(each["collectives"]), f"{1000 * each['collectives_s']:,.1f}", f"{1000 * each['measured_s']:,.0f}"),
            f"{1000 * each['simulated_s']:,.0f}", f"{each['simulated_s'] / each['measured_s'] - 1:+.1%}",
        ]
        for each in rows
    ]
    head = ["2 ranks", "apart ms", "spread", "collectives", "their ms", "measured ms", "simulated ms", "error"]
    print(markdown(head, cells))


if __name__ == "__main__":
    work(*sys.argv[2:4]) if sys.argv[1:2] == ["--work"] else main()
