"""When in a backward pass ranks begin to communicate, by a trace: python tests/strategies/overlap.py FOLDER [--write]

Two ranks of `cvae` on the CPU by the command of a user, with networks of 30 MB, of which the fourth step is traced on
the first rank by torch.profiler: FOLDER/STRATEGY.json, for chrome://tracing or ui.perfetto.dev.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

STRATEGIES = ("ddp", "ddp strategy.compile=true", "fsdp", "zero1", "zero2", "zero3")
PAGE = Path(__file__).parents[2] / "docs" / "strategies.md"
STEP = 3
RUN = [
    *("+experiment=cvae", "kimg=0.016", "data.batch_size=4", "data.source.num_images=64", "gpus_per_node=0"),
    *("trainer.devices=2", "callbacks.evaluation=null", "callbacks.samples=null", "logger.wandb=null"),
    *("callbacks.checkpoint.times=0", "+callbacks.trace._target_=overlap.Trace", "strategy.unit_parameters=100000"),
    *(f"objective.autoencoder.{part}.base_channels=64" for part in ("encoder", "decoder")),
    *(f"objective.autoencoder.{part}.max_channels=512" for part in ("encoder", "decoder")),
]  # fmt: skip
COLLECTIVES = ("allreduce", "all_reduce", "reduce", "allgather", "all_gather", "_allgather", "_reduce_scatter")


class Trace(pl.Callback):
    """Writes $TRACE of one step of the first rank, in which each backward pass is marked."""

    def on_train_batch_start(self, trainer: Any, objective: Any, batch: Any, index: int) -> None:
        if index == STEP and trainer.is_global_zero:
            backward = trainer.strategy.backward

            def marked(*arguments: Any, **options: Any) -> None:
                with torch.profiler.record_function("backward pass"):
                    backward(*arguments, **options)

            trainer.strategy.backward = marked
            self.profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])
            self.profile.__enter__()

    def on_train_batch_end(self, trainer: Any, objective: Any, outputs: Any, batch: Any, index: int) -> None:
        if index == STEP and trainer.is_global_zero:
            self.profile.__exit__(None, None, None)
            self.profile.export_chrome_trace(os.environ["TRACE"])
            with open(os.environ["TRACE"] + ".txt", "w") as file:
                for event in self.profile.events():
                    file.write(f"{event.time_range.start} {event.time_range.end} {event.name}\n")


def measure(strategy: str, folder: Path) -> list[float]:
    """When each collective of the backward passes began, as a share of its pass."""
    name, *given = strategy.split()
    trace = folder / f"{'-'.join([name, *given])}.json"
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": f"{here}:{here.parents[1]}", "TRACE": str(trace), "OMP_NUM_THREADS": "1"}
    environment |= {"DS_ACCELERATOR": "cpu", "WANDB_MODE": "offline"}
    words = [*RUN, f"strategy={name}", *given, f"run_dir={folder / trace.stem}", "allow=[overlap]"]
    words = [word for word in words if name == "fsdp" or "unit_parameters" not in word]
    subprocess.run([sys.executable, "-m", "trainer", *words], env=environment, check=True, stdout=subprocess.DEVNULL)
    return shares(Path(f"{trace}.txt").read_text().splitlines())


def shares(lines: list[str]) -> list[float]:
    events = [(float(a), float(b), name) for a, b, name in (line.split(" ", 2) for line in lines)]
    passes = [(start, end) for start, end, name in events if name == "backward pass"]
    names = ("c10d::", "_c10d_functional::")
    began = [a for a, _, name in events if name.startswith(names) and name.split("::")[1].startswith(COLLECTIVES)]
    return sorted((at - start) / (end - start) for start, end in passes for at in began if start <= at <= end)


def rows(folder: Path) -> str:
    lines = ["| strategy | collectives in the backward pass | the first begins at | half of them by |"]
    lines.append("|---|---|---|---|")
    for strategy in STRATEGIES:
        found = measure(strategy, folder)
        places = (f"{found[0]:.0%}", f"{found[len(found) // 2]:.0%}") if found else ("–", "–")
        lines.append(f"| `{strategy}` | {len(found)} | {places[0]} | {places[1]} |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


if __name__ == "__main__":
    target = Path(sys.argv[1]).resolve()
    target.mkdir(parents=True, exist_ok=True)
    table = rows(target)
    if "--write" in sys.argv:
        before, _, rest = PAGE.read_text().partition("<!-- overlap -->\n")
        PAGE.write_text(f"{before}<!-- overlap -->\n{table}\n<!-- /overlap -->{rest.partition('<!-- /overlap -->')[2]}")
