"""A disk that is full ends no run that has somewhere to go on from, and no log ends one at all."""

import csv
import os
import resource
import sys
from contextlib import contextmanager, nullcontext

import pytest

from trainer.callbacks.checkpoint import Checkpoint
from trainer.callbacks.log import Log
from trainer.callbacks.progress import Progress
from trainer.callbacks.samples import Samples
from trainer.errors import UserError
from trainer.loggers.csv import CSV
from trainer.process.progress import best_effort_output
from trainer.runs import checkpoint
from trainer.runs.run_folder import replace_text

from .test_checkpoint import At, Measure, names


class Full:
    """os.fsync on a disk that is full while `now(folder)` says so."""

    def __init__(self, folder, now):
        self.folder, self.now, self.sync = folder / "checkpoints", now, os.fsync

    def __call__(self, handle):
        if self.now(len(list(self.folder.glob("kimg*.ckpt")))):
            raise OSError(28, "No space left on device")
        self.sync(handle)


def test_a_save_that_fails_is_told_and_the_run_goes_on(objective, data, make_trainer, tmp_path, monkeypatch, capsys):
    closed = [False]
    monkeypatch.setattr(os, "fsync", Full(tmp_path, lambda _: closed[0]))
    shut, opened = (At(step, lambda _, to=to: closed.__setitem__(0, to)) for step, to in ((3, True), (7, False)))
    trainer = make_trainer([shut, opened, Checkpoint(times=5)], max_steps=10)
    trainer.fit(objective, data)
    assert trainer.global_step == 10
    assert names(tmp_path) == ["kimg000000.032.ckpt", "kimg000000.040.ckpt"]
    said = capsys.readouterr().err
    assert said.count("No space left on device") == 2  # steps 4 and 6
    assert "Training goes on" in said


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_oldest_makes_room(objective, data, make_trainer, tmp_path, monkeypatch, capsys, asynchronous):
    """A disk that holds two checkpoints and not three."""
    monkeypatch.setattr(os, "fsync", Full(tmp_path, lambda count: count >= 2))
    make_trainer([Checkpoint(times=5, asynchronous=asynchronous)], max_steps=10).fit(objective, data)
    assert names(tmp_path) == ["kimg000000.032.ckpt", "kimg000000.040.ckpt"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_last_one_is_never_given_for_the_next(objective, data, make_trainer, tmp_path, monkeypatch, asynchronous):
    monkeypatch.setattr(os, "fsync", Full(tmp_path, lambda count: count >= 1))
    with pytest.raises(UserError, match=r"cannot write .*kimg000000.040.ckpt: No space left"):
        make_trainer([Checkpoint(times=5, asynchronous=asynchronous)], max_steps=10).fit(objective, data)
    assert names(tmp_path) == ["kimg000000.008.ckpt"]
    assert checkpoint.newest(tmp_path).name == "kimg000000.008.ckpt"


def test_a_best_that_was_not_saved_is_not_the_best(objective, data, make_trainer, tmp_path, monkeypatch):
    closed = [True]
    monkeypatch.setattr(os, "fsync", Full(tmp_path, lambda _: closed[0]))
    saving = Checkpoint(times=1)
    opened = At(3, lambda _: closed.__setitem__(0, False))
    make_trainer([opened, Measure({2: 4.0, 5: 5.0}), saving], max_steps=8).fit(objective, data)
    assert saving.best == 5.0
    assert checkpoint.read(tmp_path / "checkpoints" / "best.ckpt")["global_step"] == 5


@contextmanager
def no_file_larger_than(size):
    allowed = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, allowed[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, allowed)


def test_no_log_ends_a_run(objective, data, make_trainer, tmp_path, capsys):
    callbacks = [Log(every_steps=1), Samples(times=5, num_images=2), Progress(every_seconds=0)]
    with no_file_larger_than(1):
        trainer = make_trainer(callbacks, max_steps=10, logger=CSV(str(tmp_path / "metrics.csv")))
        trainer.fit(objective, data)
    assert trainer.global_step == 10
    said = capsys.readouterr().err.splitlines()
    for file in ("metrics.csv", "samples", "README.md"):
        assert sum(f"{tmp_path / file} cannot be written (File too large)" in line for line in said) == 1
    assert not list(tmp_path.rglob("*.tmp"))


def test_rows_go_on_when_there_is_room_again(tmp_path, capsys):
    logger = CSV(str(tmp_path / "metrics.csv"))
    for step in range(10):
        logger.log_metrics({"loss": 0.5}, step=step)
    with no_file_larger_than((tmp_path / "metrics.csv").stat().st_size + 4):
        for step in range(10, 20):
            logger.log_metrics({"loss": 0.5, "more": 1.0} if step > 14 else {"loss": 0.5}, step=step)
    for step in range(120, 123):
        logger.log_metrics({"loss": 0.25}, step=step)
    with open(tmp_path / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [*range(10), 120, 121, 122]
    assert capsys.readouterr().err.count("cannot be written") == 1


@pytest.mark.parametrize("number", [28, 5, 32], ids=["full", "gone", "closed pipe"])
def test_a_full_disk_behind_stdout_ends_nothing(monkeypatch, number):
    class Stream:
        encoding = "utf-8"

        def write(self, text):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(sys, "stdout", Stream())
    expected = pytest.raises(BrokenPipeError) if number == 32 else nullcontext()
    with best_effort_output(), expected:
        print("kimg 1")
    with pytest.raises(OSError, match=os.strerror(number)):
        print("kimg 1")


def test_a_config_is_whole_or_the_old_one(tmp_path, capsys):
    file = tmp_path / "config.yaml"
    with no_file_larger_than(4), pytest.raises(OSError, match="too large"):
        replace_text(file, "new: 123456")
    assert not file.exists()
    replace_text(file, "old: 1")
    with no_file_larger_than(4):
        replace_text(file, "new: 123456")
    assert file.read_text() == "old: 1"
    assert "goes on without it" in capsys.readouterr().err
