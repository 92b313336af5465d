"""Processes of `trainer.evaluate` that torchrun or srun has started: all come, and one that ends is named."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.strategies.sharing import LIMIT
from trainer import evaluate
from trainer.errors import UserError
from trainer.strategies import together

ROOT = Path(__file__).parents[2]


def launched(launcher: str, rank: int) -> dict[str, str]:
    if launcher == "torchrun":
        return {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    return {
        **{"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_NODEID": "0", "SLURM_NTASKS": "2"},
        **{"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "job", "SLURM_STEP_ID": "0", "SLURM_NODELIST": "127.0.0.1"},
        **{"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1"},
    }


@pytest.fixture
def start(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    started = []

    def processes(launcher, case):
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "TORCHELASTIC"))}
        for rank in range(2):
            env = clean | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | place | launched(launcher, rank)
            command = [sys.executable, "-m", "tests.strategies.sharing", case]
            with open(tmp_path / f"{rank}.txt", "w") as log:
                started.append(subprocess.Popen(command, env=env, cwd=tmp_path, stdout=log, stderr=log))
        return started

    yield processes
    for process in started:
        process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "srun"])
def test_they_share_and_end(start, tmp_path, launcher):
    assert [process.wait(120) for process in start(launcher, "")] == [0, 0]
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)] == ["2 share\ndone\n"] * 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "why"),
    [
        ("SIGKILL", "has not answered for"),
        ("SIGSTOP", "has not answered for"),
        ("mistake", "was ended by UserError: there is no such image"),
    ],
)
def test_one_that_ends_is_named_by_the_other(start, tmp_path, case, why):
    first, _ = start("torchrun", case)
    log = tmp_path / "0.txt"
    while "share" not in log.read_text():
        assert first.poll() is None, log.read_text()
        time.sleep(0.1)
    began = time.monotonic()
    assert first.wait(60) == 1
    assert time.monotonic() - began < 2 * LIMIT + 6
    said = log.read_text().splitlines()[-1]
    assert said.startswith("rank 1 (host ") and why in said and said.endswith(": stopping"), log.read_text()


@pytest.mark.parametrize("launcher", ["torchrun", "srun"])
def test_an_evaluation_names_who_does_not_come(command, monkeypatch, launcher):
    met = []

    def meet(*where):
        met.append(where)
        raise UserError("rank 1 of 2 did not come")

    monkeypatch.setattr(together, "meet", meet)
    for key in [key for key in os.environ if key.startswith("SLURM_")]:
        monkeypatch.delenv(key)
    for key, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29733", **launched(launcher, 0)}.items():
        monkeypatch.setenv(key, value)
    told = command("checkpoint=none", "device=cpu", main=evaluate.main)
    assert (told.code, told.err) == (2, "rank 1 of 2 did not come\n")
    assert met == [("127.0.0.1", 29733, 0, 2, 60)]
