"""A rank is killed or frozen: the other ends within the stated time, names it, and the run can go on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trainer.callbacks.heartbeat import Heartbeat
from trainer.errors import UserError
from trainer.strategies.together import of_a_collective

ROOT = Path(__file__).parents[2]
LIMIT = 8  # seconds
TINY = [
    *("experiment=cgan_shapes", "data.source.num_images=64", "data.resolution=16", "data.batch_size=4", "text=scratch"),
    *("text.width=16", "text.network.num_layers=1", "text.encoder.vocabulary=64", "callbacks.samples=null"),
    *(f"objective.{name}.base_channels=8" for name in ("generator", "discriminator")),
    *(f"objective.{name}.max_channels=8" for name in ("generator", "discriminator")),
    *("objective.penalty_interval=1000000", "callbacks.evaluation=null"),
    *("callbacks.checkpoint.times=1000", "logger.wandb=null", "strategy=ddp", "gpus_per_node=0"),
    *("kimg=20", f"callbacks.heartbeat.limit_seconds={LIMIT}"),
]
LAUNCHERS = {
    "lightning": ["-m", "trainer", "trainer.devices=2"],
    "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "trainer"],
}


def start(run: Path, launcher: str, *overrides: str) -> subprocess.Popen[bytes]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    clean |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    run.parent.mkdir(exist_ok=True)
    with open(run.with_suffix(".txt"), "a") as log:
        command = [sys.executable, *LAUNCHERS[launcher], *overrides, f"run_dir={run}"]
        return subprocess.Popen(command, stdout=log, stderr=log, env=clean, cwd=run.parent)


def pids(run: Path) -> dict[int, int]:
    """rank -> process, of those that train in `run`; not their data workers, which look the same."""
    found, parents = {}, {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().replace(b"'", b"").split(b"\0")  # a child has them quoted
            environment = (process / "environ").read_bytes().split(b"\0")
            parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if f"run_dir={run}".encode() in words and b"torch.distributed.run" not in words:
            ranks = [each.partition(b"=")[2] for each in environment if each.startswith(b"LOCAL_RANK=")]
            found[int(process.name)] = int(ranks[0]) if ranks else 0
            parents[int(process.name)] = int(parent)
    return {rank: pid for pid, rank in found.items() if found.get(parents[pid]) != rank}


def wait_for(condition, log: Path, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "blow", "victim", "num_workers"),  # of ranks alone, without a training: tests/strategies/test_watch.py
    [
        ("lightning", signal.SIGKILL, 1, 0),
        ("lightning", signal.SIGSTOP, 0, 0),
        ("torchrun", signal.SIGKILL, 0, 0),
        ("torchrun", signal.SIGSTOP, 1, 0),
        ("lightning", signal.SIGKILL, 1, 2),  # the end of its workers is not taken for the reason
        ("torchrun", signal.SIGKILL, 0, 2),
    ],
)
def test_the_others_name_the_rank_and_end(tmp_path, launcher, blow, victim, num_workers):
    run, log = tmp_path / "run", tmp_path / "run.txt"
    process = start(run, launcher, *TINY, f"data.num_workers={num_workers}")
    try:
        wait_for(lambda: any(run.glob("checkpoints/*.ckpt")), log)
        ranks = pids(run)
        os.kill(ranks[victim], blow)
        struck = time.monotonic()
        wait_for(lambda: not any(alive(pid) for rank, pid in ranks.items() if rank != victim), log, LIMIT + 20)
        ended = time.monotonic() - struck
        code = process.wait(timeout=60)  # torchrun takes half a minute to kill a frozen process
    finally:
        for pid in (process.pid, *pids(run).values()):
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
    words = log.read_text()
    line = re.search(rf"rank {victim} \(host \S+\) (.*): stopping; the last checkpoint is (\S+); resume={run}", words)
    assert line, words
    assert "DataLoader" not in words
    assert code != 0
    assert Path(line[2]).is_file()
    if victim:  # rank 0 has lived to write the report
        assert f"failed: {line[0].partition(':')[0]}" in (run / "report.html").read_text()
    print(f"{launcher} {blow.name} of rank {victim}: {line[1]}; the other ended after {ended:.1f} s")

    images = int(Path(line[2]).stem[4:].replace(".", ""))
    resumed = start(run, "lightning", f"resume={run}", f"kimg={(images + 40) / 1000}", "trainer.devices=1")
    assert resumed.wait(timeout=120) == 0, log.read_text()
    assert f"resumed from  {run}" in log.read_text()


def test_what_is_a_collective_failing():
    assert of_a_collective(RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [::1]:5"))
    assert of_a_collective(RuntimeError("NCCL error: remote process exited or there was a network error"))
    assert not of_a_collective(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not of_a_collective(BrokenPipeError("Broken pipe"))
    assert not of_a_collective(UserError("loss is nan"))


def test_a_limit_below_the_grace_is_refused():
    with pytest.raises(UserError, match="limit_seconds=3: expected more than 5"):
        Heartbeat(limit_seconds=3)
