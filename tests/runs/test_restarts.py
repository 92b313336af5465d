"""A rank that is killed under torchrun is started again with all others, and the run goes on from its checkpoint."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.runs.test_resume import SMALL, STEPS, final

ROOT = Path(__file__).parents[2]
LAUNCH = ["-m", "torch.distributed.run", "--max-restarts=1", "--nnodes=1", "--nproc-per-node=2"]


def process_of(launcher: int, rank: int) -> int:
    """The child of a launcher that has this rank."""
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        if f"RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return int(child)
    raise AssertionError(f"no rank {rank}")


@pytest.mark.slow
@pytest.mark.parametrize(("rendezvous", "rank"), [("static", 0), ("c10d", 1)])
def test_torchrun_restarts_a_run_whose_rank_was_killed(tmp_path, rendezvous, rank):
    """Without --standalone: the launcher's store outlives the attempt, with what its ranks have left there."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    place = {
        "static": ["--master-addr=127.0.0.1", f"--master-port={port}"],
        "c10d": ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=run"],
    }[rendezvous]
    log, run = tmp_path / "output.txt", tmp_path / "outputs"
    words = [*SMALL, "gpus_per_node=0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TRAINER_CACHE": str(tmp_path / "cache")}
    with open(log, "w") as out:
        launcher = subprocess.Popen(
            [sys.executable, *LAUNCH, *place, "-m", "trainer", *words],
            cwd=tmp_path, env=environment, stdout=out, stderr=out,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 200
            while len([*run.glob("*/*/checkpoints/kimg*.ckpt")]) < 3:
                assert launcher.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.005)
            os.kill(process_of(launcher.pid, rank), signal.SIGKILL)
            assert launcher.wait(timeout=200) == 0, log.read_text()
        finally:
            launcher.terminate()
            launcher.wait(timeout=60)
    resumed = re.findall(r"resumed from +\S+/kimg([\d.]+)\.ckpt", log.read_text())
    assert len(resumed) == 1 and 0 < float(resumed[0]) < STEPS * 8 / 1000, log.read_text()
    (folder,) = run.glob("*/*")  # one for both attempts
    starts = (folder / "environment.txt").read_text()
    assert len(re.findall(r"^command ", starts, re.MULTILINE)) == 2
    assert final(folder)["global_step"] == STEPS
