"""When a run leaves its checkpoints in a store of models."""

import os
import signal
from contextlib import suppress

import pytest

from trainer.callbacks import artifacts
from trainer.callbacks.artifacts import Artifacts
from trainer.callbacks.checkpoint import Checkpoint
from trainer.callbacks.stop import Stop
from trainer.loggers.csv import CSV
from trainer.process import signals

from .test_checkpoint import At


class Store(CSV):
    """A logger that takes models, and notes which."""

    def __init__(self, path):
        super().__init__(path)
        self.models = []

    def log_data(self, name, about):
        pass

    def log_model(self, path, aliases, about, upload):
        self.models.append((path.name, about["kimg"]))


@pytest.fixture
def fit(objective, data, make_trainer, tmp_path, monkeypatch):
    """What a run of 10 steps, at the third of which something happens, leaves in the store."""
    monkeypatch.setattr(artifacts, "describe_data", lambda config, data: {"source": "random", "fingerprint": "0"})

    def run(action):
        store = Store(str(tmp_path / "metrics.csv"))
        callbacks = [At(3, action), Stop(), Checkpoint(times=1), Artifacts()]
        with suppress(RuntimeError, SystemExit):  # its own failure
            make_trainer(callbacks, max_steps=10, logger=store).fit(objective, data)
        return store.models

    before = signals.arm()  # as the entry point does
    yield run
    signals.restore(before)


def test_the_end_of_a_run_is_kept(fit):
    assert fit(lambda trainer: None) == [("kimg000000.040.ckpt", 0.04)]


def test_a_run_that_ctrl_c_stops_is_kept(fit):
    assert fit(lambda trainer: os.kill(os.getpid(), signal.SIGINT)) == [("kimg000000.012.ckpt", 0.012)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_a_run_that_goes_on_elsewhere_keeps_nobody_waiting(fit, number, tmp_path):
    before = signal.signal(number, signal.SIG_DFL)  # under nohup SIGHUP is ignored, and would stay so
    try:
        kept = fit(lambda trainer: os.kill(os.getpid(), number))
    finally:
        signal.signal(number, before)
    assert kept == []
    assert (tmp_path / "checkpoints/kimg000000.012.ckpt").is_file()


def saved(trainer):
    trainer.save_checkpoint(f"{trainer.default_root_dir}/checkpoints/kimg000000.012.ckpt")


def test_a_run_that_fails_is_kept(fit):
    def fail(trainer):
        saved(trainer)
        raise RuntimeError("a bug")

    assert fit(fail) == [("kimg000000.012.ckpt", 0.012)]


def test_a_run_that_is_aborted_is_not(fit):
    def abort(trainer):
        saved(trainer)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    assert fit(abort) == []
