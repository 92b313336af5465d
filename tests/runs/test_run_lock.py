"""One run a folder: a second start is refused while the first lives, and by nothing that is dead."""

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trainer.errors import UserError
from trainer.process import ranks
from trainer.runs import run_lock

HOLD = """import sys, time, pathlib
from trainer.runs import run_lock
with run_lock.exclusive(pathlib.Path(sys.argv[1])):
    print('in', flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that trains in tmp_path."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "in\n"
        yield process
        process.kill()


@pytest.fixture(params=["locks", "no locks"])
def file_system(request, monkeypatch):
    if request.param == "no locks":
        refuse = OSError(errno.ENOSYS, "no locks here")
        monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(refuse))


def start(folder):
    with run_lock.exclusive(folder):
        return json.loads((folder / run_lock.FILE).read_text())


def rewrite(folder, **changes):
    """As another process has left the lock."""
    content = start(folder)
    (folder / run_lock.FILE).touch()
    inode = (folder / run_lock.FILE).stat().st_ino
    (folder / run_lock.FILE).write_text(json.dumps(content | {"inode": inode} | changes))


@pytest.mark.usefixtures("file_system")
def test_a_second_start_is_refused_and_changes_nothing(tmp_path, holder):
    before = (tmp_path / run_lock.FILE).read_text()
    for look in (start, run_lock.check):
        with pytest.raises(UserError, match=rf"process {holder.pid} on .* trains in {tmp_path} since 20..-"):
            look(tmp_path)
    assert (tmp_path / run_lock.FILE).read_text() == before


@pytest.mark.usefixtures("file_system")
@pytest.mark.parametrize("reaped", [True, False])
def test_a_killed_process_blocks_nobody(tmp_path, holder, reaped):
    holder.kill()
    if reaped:
        holder.wait()
    else:
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # a zombie has its number still
    assert start(tmp_path)["pid"] == os.getpid()
    assert not (tmp_path / run_lock.FILE).exists()


def test_the_copy_of_a_living_run_is_free(tmp_path, holder):
    copy = shutil.copytree(tmp_path, tmp_path.with_name(f"{tmp_path.name}-copy"))
    assert (copy / run_lock.FILE).read_text()
    start(copy)


def test_a_number_given_to_another_process_is_not_the_holder(tmp_path):
    rewrite(tmp_path, pid=os.getppid(), started="1")
    start(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"pid": 1}', "\0" * 50])
def test_a_damaged_lock_blocks_nobody(tmp_path, content):
    (tmp_path / run_lock.FILE).write_text(content)
    start(tmp_path)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(run_lock, "SILENT_SECONDS", 0.5)
    monkeypatch.setattr(run_lock, "BEAT_SECONDS", 0.2)


@pytest.mark.usefixtures("quick")
def test_another_machine_is_known_by_its_beat(tmp_path, holder, capsys):
    content = json.loads((tmp_path / run_lock.FILE).read_text())
    holder.kill()
    holder.wait()
    with run_lock.exclusive(tmp_path):  # beats for the other one
        content["token"] = json.loads((tmp_path / run_lock.FILE).read_text())["token"]
        (tmp_path / run_lock.FILE).write_text(json.dumps(content | {"machine": "node7", "host": "node7", "job": "88"}))
        with pytest.raises(UserError, match=r"on node7 \(job 88\) trains in"):
            run_lock.check(tmp_path)
    assert "to see whether process" in capsys.readouterr().err


@pytest.mark.usefixtures("quick")
def test_a_silent_one_of_another_machine_is_dead(tmp_path, monkeypatch):
    rewrite(tmp_path, machine="node7")
    start(tmp_path)
    rewrite(tmp_path, machine="node7")
    os.utime(tmp_path / run_lock.FILE, (0, time.time() - 2 * run_lock.OLD_SECONDS))
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("nobody waits for one that old"))
    start(tmp_path)


def test_a_requeued_job_follows_itself_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "88")
    rewrite(tmp_path, machine="node7")
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it need not wait"))
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    start(tmp_path)


def test_the_first_of_a_run_takes_it(monkeypatch):
    for key in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS", "NODE_RANK"):
        monkeypatch.delenv(key, raising=False)
    assert ranks.leads()
    monkeypatch.setenv("LOCAL_RANK", "1")  # of Lightning's own
    assert not ranks.leads()
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("NODE_RANK", "1")
    assert not ranks.leads()


@pytest.mark.slow
@pytest.mark.parametrize("again", [False, True], ids=["the same command", "resume"])
def test_a_start_beside_a_living_run_is_one_line(tmp_path, again):
    small = [
        *("experiment=cgan_shapes", "data.source.num_images=200", "data.resolution=16", "data.batch_size=8", "kimg=80"),
        *("text=scratch", "text.width=16", "text.network.num_layers=1", "text.encoder.vocabulary=256"),
        *("callbacks.evaluation=null", "logger.wandb=null", "callbacks.checkpoint.times=1000", "run_dir=run"),
    ]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "TRAINER_CACHE": str(tmp_path / "c")}
    command = [sys.executable, "-m", "trainer"]
    with subprocess.Popen([*command, *small], cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL) as first:
        while not list(tmp_path.glob("run/checkpoints/*.ckpt")):
            assert first.poll() is None
            time.sleep(0.2)
        (tmp_path / "run" / "end.json").write_text("{}")
        given = ["resume=run"] if again else small
        second = subprocess.run([*command, *given], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert (second.returncode, second.stderr.count("\n")) == (2, 1), second.stderr
        assert f"process {first.pid} on" in second.stderr
        assert (tmp_path / "run" / "end.json").read_text() == "{}"
        assert not (tmp_path / "run" / "report.html").exists()
        first.kill()
    third = [*command, "resume=run", "kimg=0.1"]
    assert subprocess.run(third, cwd=tmp_path, env=environment, capture_output=True).returncode == 0
