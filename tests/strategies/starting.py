"""What the weights take of each rank's memory at the start: python tests/strategies/starting.py [STRATEGY ...]

`gat` with networks of 0.8 GB on two CPU ranks, by the command of a user. It ends where the optimisers would be made.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

RUN = [
    *("+experiment=gat", "data=shapes_single", "kimg=0.016", "data.batch_size=4", "data.source.num_images=64"),
    *("gpus_per_node=0", "trainer.devices=2", "callbacks.evaluation=null", "callbacks.samples=null"),
    *("logger.wandb=null", "+callbacks.peak._target_=starting.Peak"),
    *("objective.generator.width=1024", "objective.generator.depth=12"),
]


def resident(name: str) -> float:
    """MiB: `VmRSS` now, `VmHWM` at most since it was set back."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


class Peak(pl.Callback):
    """Writes $PEAK.RANK: the most MiB from before the networks are built until all weights are where they will be, and
    MiB of the weights."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")
        self.before = resident("VmRSS")

    def setup(self, trainer: Any, objective: Any, stage: str) -> None:
        weights = sum(parameter.nbytes for parameter in objective.parameters()) / 2**20

        def placed(_: Any) -> None:  # what comes next is the optimisers
            most = resident("VmHWM") - self.before
            Path(f"{os.environ['PEAK']}.{trainer.global_rank}").write_text(f"{most} {weights}")
            trainer.strategy.barrier()
            os._exit(0)

        trainer.strategy.setup_optimizers = placed


def measure(strategy: str, folder: Path) -> list[tuple[float, float]]:
    """For each rank: the most MiB that it held, and those of the network's weights."""
    here, peak = Path(__file__).parent, folder / strategy
    environment = os.environ | {"PYTHONPATH": f"{here}:{here.parents[1]}", "PEAK": str(peak), "OMP_NUM_THREADS": "1"}
    environment["MALLOC_MMAP_THRESHOLD_"] = "262144"  # what is freed is given back, and so not counted
    command = [sys.executable, "-m", "trainer", *RUN, f"strategy={strategy}", f"run_dir={folder / 'run'}"]
    subprocess.run(command, env=environment, check=False, capture_output=True, timeout=500)
    found = [Path(f"{peak}.{rank}").read_text().split() for rank in (0, 1)]
    return [(float(most), float(weights)) for most, weights in found]


if __name__ == "__main__":
    for name in sys.argv[1:] or ("fsdp", "zero3"):
        with tempfile.TemporaryDirectory() as folder:
            print(name, *(f"{most:.0f} MiB, weights {weights:.0f}" for most, weights in measure(name, Path(folder))))
