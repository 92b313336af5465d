"""A cluster for all tests here, and jobs on it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, missing

ROOT = Path(__file__).parents[2]
STEPS = 60
OWN = ["allow=[watch]"]  # a part of a stored configuration that is not of this package
TINY = [
    *("experiment=cgan_shapes", "data.source.num_images=64", "data.resolution=16", "data.batch_size=8", "text=scratch"),
    *("text.width=16", "text.network.num_layers=1", "text.encoder.vocabulary=64", "callbacks.samples=null"),
    *(f"objective.{name}.base_channels=8" for name in ("generator", "discriminator")),
    *(f"objective.{name}.max_channels=8" for name in ("generator", "discriminator")),
    *("objective.penalty_interval=4", "callbacks.evaluation=null"),
    *("callbacks.checkpoint.times=30", "logger.wandb=null", f"kimg={STEPS * 8 / 1000}"),
    *("+callbacks.watch._target_=watch.Watch", "+callbacks.watch.seconds=0.1"),
]
TWO_NODES = ["launch=slurm", "nodes=2", "gpus_per_node=0", "strategy=ddp"]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if lacking := missing():
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip  # on a laptop without SLURM only
        give_up(f"needs {', '.join(lacking)}: as root, apt-get install slurm-wlm munge")
    running = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        running.start()
        yield running
    finally:
        running.stop()


class Jobs:
    """Submits from `folder` and follows."""

    def __init__(self, cluster: Cluster, folder: Path):
        self.cluster, self.folder = cluster, folder
        paths = f"{ROOT}:{Path(__file__).parent}"
        self.environment = os.environ | cluster.environment
        # nodes have no names in DNS here
        self.environment |= {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
        self.environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    def run(self, *command: str, **environment: str) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment | environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def train(self, *overrides: str) -> str:
        """Number of the job that `python -m trainer ... launch=slurm` submits."""
        address = "launch.env={MASTER_ADDR: 127.0.0.1}"
        found = re.search(r"job +(\d+): ", self.run(sys.executable, "-m", "trainer", *overrides, address))
        assert found
        return found[1]

    def state(self, job: str) -> str:
        return self.field(job, "JobState")

    def field(self, job: str, name: str) -> str:
        found = re.search(rf"\b{name}=(\S+)", self.cluster.ask("scontrol", "show", "job", job))
        return found[1] if found else ""

    def wait(self, job: str, *states: str, seconds: float = 180) -> None:
        self.until(lambda: self.state(job) in states, f"job {job} is not {' or '.join(states)}", seconds)

    def until(self, condition: Callable[[], object], what: str, seconds: float = 180) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                logs = "\n".join(log.read_text() for log in self.folder.rglob("slurm-*.out"))
                pytest.fail(f"{what} after {seconds:.0f} s\n{self.cluster.ask('scontrol', 'show', 'job')}\n{logs}")
            time.sleep(0.2)

    def until_saved(self, run: str) -> Path:
        """Waits for the first checkpoint of a run; its file."""
        folder = self.folder / run / "checkpoints"
        self.until(lambda: any(folder.glob("kimg*.ckpt")), f"no checkpoint in {run}")
        return min(folder.glob("kimg*.ckpt"))


@pytest.fixture(scope="session")
def jobs(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    return Jobs(cluster, tmp_path_factory.mktemp("runs"))
