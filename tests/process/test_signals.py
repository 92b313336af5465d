"""Signals: noted while training, the end of the process before, a requeue where SLURM wants one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from trainer.callbacks.stop import Stop
from trainer.process import signals

ROOT = Path(__file__).parents[2]
SCONTROL = """#!/bin/sh
echo "$@" >>"$(dirname "$0")/asked"
[ "$1" = show ] && echo "JobState=RUNNING StartTime=2026-01-02T00:00:00 PreemptTime=${PREEMPT_TIME:-None}"
exit 0
"""


@pytest.fixture
def armed():
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may run under nohup
    before = signals.arm()
    signals.immediate()
    yield
    signals.immediate()
    signals.restore(before)


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """A stand-in for scontrol; returns what it was asked."""
    (tmp_path / "scontrol").write_text(SCONTROL)
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    for key in ("SLURM_ARRAY_JOB_ID", "SLURM_PROCID", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(key, raising=False)
    return lambda: (tmp_path / "asked").read_text().splitlines() if (tmp_path / "asked").exists() else []


@pytest.mark.parametrize("number", signals.STOPPING)
def test_before_training_a_signal_ends_the_process(armed, number):
    with pytest.raises(SystemExit) as end:
        os.kill(os.getpid(), number)
    assert end.value.code == 128 + number


def test_while_training_it_is_noted(armed, capfd):
    signals.defer()
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)  # SLURM delivers it through srun and by itself
    os.kill(os.getpid(), signal.SIGUSR1)
    assert signals.received == signal.SIGTERM
    assert "SIGTERM: finishing the batch and saving\n" in capfd.readouterr().err


def test_one_node_tells_of_a_signal(armed, asked, monkeypatch, capfd):
    monkeypatch.setenv("NODE_RANK", "1")
    with pytest.raises(SystemExit):
        os.kill(os.getpid(), signal.SIGUSR1)
    signals.immediate()
    signals.defer()
    os.kill(os.getpid(), signal.SIGUSR1)
    assert (asked(), capfd.readouterr().err) == ([], "")


def test_an_order_that_a_library_swallowed_still_holds(armed):
    with suppress(SystemExit):
        os.kill(os.getpid(), signal.SIGUSR1)
    stop = Stop()
    with pytest.raises(SystemExit) as end:
        stop.setup(SimpleNamespace(), None, "fit")
    assert end.value.code == 128 + signal.SIGUSR1


def test_putting_back_what_was_never_armed_forgets_nothing(armed):
    with pytest.raises(SystemExit):
        os.kill(os.getpid(), signal.SIGTERM)
    signals.restore({})  # of a part whose turn to arm had not come
    assert signals.leaving() == signal.SIGTERM


def test_a_second_interrupt_aborts(armed):
    signals.defer()
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    ("number", "preempted", "expected"),
    [
        (signal.SIGUSR1, None, ["requeue 12"]),
        (signal.SIGTERM, None, ["show job 12"]),
        (signal.SIGTERM, "2026-01-02T01:00:00", ["show job 12", "requeue 12"]),
        (signal.SIGTERM, "2026-01-01T01:00:00", ["show job 12"]),  # before it was requeued the last time
        (signal.SIGINT, None, []),
    ],
)
def test_what_is_requeued(asked, monkeypatch, number, preempted, expected):
    if preempted:
        monkeypatch.setenv("PREEMPT_TIME", preempted)
    signals.requeue(number)
    assert asked() == expected


def test_a_task_of_an_array_is_requeued_alone(asked, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "10")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    signals.requeue(signal.SIGUSR1)
    assert asked() == ["requeue 10_2"]


def test_nothing_is_requeued_outside_slurm(asked, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID")
    signals.requeue(signal.SIGUSR1)
    assert asked() == []


def test_a_requeue_that_fails_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    signals.requeue(signal.SIGUSR1)
    assert capsys.readouterr().err == "SLURM did not requeue job 12: scontrol: No such file or directory\n"


@pytest.mark.parametrize("raised", ["KeyError(140071867464576)", "None"])
def test_an_import_that_swallows_the_exit_is_left_at_once(tmp_path, raised):
    (tmp_path / "swallows.py").write_text(
        "import os, signal\ntry:\n    os.kill(os.getpid(), signal.SIGTERM)\n"
        f"except SystemExit:\n    error = {raised}\n    if error: raise error\n"
    )
    program = "from trainer.process import signals; print('kept'); signals.arm(); import swallows; print('went on')"
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGTERM, "kept\n", "")


def test_slurm_is_asked_in_the_middle_of_an_import_of_subprocess(asked, monkeypatch):
    monkeypatch.setitem(sys.modules, "subprocess", ModuleType("subprocess"))  # as it stands while it is imported
    signals.requeue(signal.SIGUSR1)
    assert asked() == ["requeue 12"]


def armed_yet(pid: int) -> bool:
    caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return caught is not None and int(caught[1], 16) >> (signal.SIGUSR1 - 1) & 1 == 1


@pytest.mark.parametrize("seconds", [0.0, 0.7, 1.5, 3.0])
def test_a_start_ends_without_a_traceback_at_any_moment(asked, tmp_path, seconds):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TRAINER_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "trainer", "experiment=cgan_shapes", "data.source.num_images=3000", "kimg=1000"]
    process = subprocess.Popen([*command, "logger.wandb=null"], cwd=tmp_path, env=environment, stderr=subprocess.PIPE)
    while not armed_yet(process.pid):
        time.sleep(0.005)
    time.sleep(seconds)
    process.send_signal(signal.SIGUSR1)
    _, words = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGUSR1
    assert b"Traceback" not in words
    assert asked() == ["requeue 12"]
