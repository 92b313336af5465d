"""Signals to the whole process group, as schedulers, `timeout` and terminals send them: data workers get them, too."""

import os
import signal
import time

import pytest

from tests.runs.test_resume import SMALL, start

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
def test_a_run_with_data_workers_saves_and_says_so_once(tmp_path, number):
    before = signal.signal(number, signal.SIG_DFL)  # under nohup SIGHUP is ignored, and a run would go on
    process = start(tmp_path, *SMALL, "data.num_workers=2", "kimg=1000", "run_dir=run", "callbacks.checkpoint.times=0")
    signal.signal(number, before)
    log = tmp_path / "output.txt"
    deadline = time.monotonic() + 120
    while "kimg" not in log.read_text():  # a line of progress: it trains
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    workers = children(process.pid)
    assert len(workers) >= 2
    os.killpg(process.pid, number)
    assert process.wait(timeout=60) == 128 + number
    words = log.read_text()
    assert "Traceback" not in words
    assert words.count("finishing the batch and saving") == 1
    assert list((tmp_path / "run/checkpoints").glob("kimg*.ckpt"))
    time.sleep(0.5)
    assert not [worker for worker in workers if os.path.exists(f"/proc/{worker}")]


def test_workers_end_soon_after_a_run_that_was_killed(tmp_path):
    process = start(tmp_path, *SMALL, "data.num_workers=2", "kimg=1000", "run_dir=run")
    log = tmp_path / "output.txt"
    while "kimg" not in log.read_text():
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    workers = children(process.pid)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20  # PyTorch's workers look for their parent every 5 s
    while any(os.path.exists(f"/proc/{worker}") for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]
