"""Checkpoints that are written while training goes on."""

import threading
import time

import pytest
import torch
from pytorch_lightning import Callback

from trainer.callbacks import checkpoint_io
from trainer.callbacks.checkpoint import Checkpoint
from trainer.callbacks.stop import Stop

from .test_checkpoint import At, Measure, names


@pytest.fixture
def slow(monkeypatch):
    """Writes by threads wait for `go`; the names of the threads that have written."""
    go, by, write = threading.Event(), [], checkpoint_io.write

    def later(*arguments):
        if threading.current_thread() is not threading.main_thread():
            assert go.wait(60)
        by.append(threading.current_thread().name)
        write(*arguments)

    monkeypatch.setattr(checkpoint_io, "write", later)
    return go, by


def read(folder, name):
    return torch.load(folder / "checkpoints" / name, weights_only=True)


def tensors(node):
    if isinstance(node, torch.Tensor):
        return [node]
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list | tuple) else ()
    return [tensor for child in children for tensor in tensors(child)]


def test_what_is_written_is_what_was_there_when_it_began(objective, data, make_trainer, tmp_path, slow):
    go, by = slow
    make_trainer([Checkpoint(times=2, keep=4)], max_steps=8).fit(objective, data)
    (tmp_path / "checkpoints").rename(tmp_path / "at once")
    after = At(7, lambda _: go.set())  # three steps after it began
    saving = Checkpoint(times=2, keep=4, asynchronous=True)
    make_trainer([after, saving], max_steps=8).fit(type(objective)(), data)
    assert by == ["MainThread"] * 2 + ["saving kimg000000.016.ckpt", "MainThread"]  # the last one is waited for
    for name in ("kimg000000.016.ckpt", "kimg000000.032.ckpt"):
        first, second = (torch.load(tmp_path / run / name, weights_only=True) for run in ("at once", "checkpoints"))
        one, other = (tensors([each["state_dict"], each["optimizer_states"], each["ema"]]) for each in (first, second))
        assert len(one) == len(other) > 4
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not torch.equal(tensors(first["state_dict"])[0], tensors(read(tmp_path, "kimg000000.016.ckpt"))[0])


def test_the_best_has_its_name_when_it_is_written(objective, data, make_trainer, tmp_path, slow):
    go, _ = slow
    saving, seen = Checkpoint(times=1, asynchronous=True), []
    watch = At(10, lambda _: seen.append((saving.best, (tmp_path / "checkpoints").exists())))
    callbacks = [Measure({2: 5.0, 25: 6.0, 26: 4.5}), watch, At(12, lambda _: go.set()), Wait(20, saving), saving]
    named = At(21, lambda _: seen.append((saving.best, names(tmp_path))))
    make_trainer([*callbacks, named], max_steps=30).fit(objective, data)
    assert seen == [(None, False), (5.0, ["best.ckpt", "kimg000000.008.ckpt"])]
    assert saving.best == 4.5
    assert read(tmp_path, "best.ckpt")["global_step"] == 26


class Wait(Callback):
    """Before the step, until what is being written is done."""

    def __init__(self, step, saving):
        self.step, self.saving = step, saving

    def on_train_batch_start(self, trainer, *_):
        while trainer.global_step == self.step - 1 and not self.saving._saving.done:
            time.sleep(0.01)


def test_a_stop_waits_for_both(objective, data, make_trainer, tmp_path, slow):
    go, by = slow
    later = At(5, lambda _: threading.Timer(0.2, go.set).start())
    stopping = At(5, lambda trainer: setattr(trainer, "should_stop", True))
    make_trainer([later, stopping, Stop(), Checkpoint(times=4, asynchronous=True)], max_steps=16).fit(objective, data)
    assert names(tmp_path) == ["kimg000000.016.ckpt", "kimg000000.020.ckpt"]
    assert by == ["saving kimg000000.016.ckpt", "MainThread"]


def test_a_bug_of_the_thread_is_raised(objective, data, make_trainer, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(checkpoint_io, "write", broken)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        make_trainer([Checkpoint(times=2, asynchronous=True)], max_steps=8).fit(objective, data)
