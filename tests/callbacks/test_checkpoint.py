import os
import random
import signal

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback

from trainer.callbacks.checkpoint import Checkpoint
from trainer.callbacks.checkpoint_io import AtomicCheckpointIO
from trainer.callbacks.log import Log
from trainer.callbacks.stop import Stop
from trainer.errors import UserError


def names(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


class At(Callback):
    """Does something after a given step."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_train_batch_end(self, trainer, module, *_):
        if trainer.global_step == self.step:
            self.action(trainer)


def test_keeps_the_newest_and_saves_at_the_end(objective, data, make_trainer, tmp_path):
    make_trainer([Checkpoint(times=5, keep=2)], max_steps=10).fit(objective, data)
    assert names(tmp_path) == ["kimg000000.032.ckpt", "kimg000000.040.ckpt"]
    checkpoint = torch.load(tmp_path / "checkpoints/kimg000000.040.ckpt", weights_only=True)
    assert checkpoint["images_seen"] == 40
    assert checkpoint["global_step"] == 10


def test_resumes_at_the_next_batch_and_past_an_old_budget(objective, data, make_trainer, tmp_path):
    make_trainer([Checkpoint(times=1)], max_steps=4).fit(objective, data)
    again = type(objective)()
    trainer = make_trainer([Checkpoint(times=1)], max_steps=7)
    trainer.fit(again, data, ckpt_path=str(tmp_path / "checkpoints/kimg000000.016.ckpt"), weights_only=True)
    assert trainer.global_step == 7
    assert again.images_seen == 28
    assert len(again.seen_timing) == 3


def test_a_resume_from_before_sets_later_checkpoints_aside(objective, data, make_trainer, tmp_path, capsys):
    make_trainer([Checkpoint(times=4, keep=4)], max_steps=8).fit(objective, data)
    trainer = make_trainer([Checkpoint(times=3, keep=2)], max_steps=9)
    trainer.fit(type(objective)(), data, ckpt_path=str(tmp_path / "checkpoints/kimg000000.008.ckpt"), weights_only=True)
    assert names(tmp_path) == ["kimg000000.024.ckpt", "kimg000000.036.ckpt", "set_aside"]
    aside = sorted(path.name for path in (tmp_path / "checkpoints/set_aside").iterdir())
    assert aside == ["kimg000000.016.ckpt", "kimg000000.024.ckpt", "kimg000000.032.ckpt"]
    assert "kimg000000.016.ckpt is after this start" in capsys.readouterr().out


def test_random_state_goes_on_where_it_was(objective, data, make_trainer, tmp_path):
    drawn = []

    class Draw(Callback):
        def on_train_batch_end(self, trainer, *_):
            drawn.append((torch.rand(1).item(), np.random.rand(), random.random()))

    make_trainer([Draw(), Checkpoint(times=2)], max_steps=6).fit(objective, data)
    first, drawn[:] = drawn[3:], []
    trainer = make_trainer([Draw(), Checkpoint(times=2)], max_steps=6)
    trainer.fit(type(objective)(), data, ckpt_path=str(tmp_path / "checkpoints/kimg000000.012.ckpt"), weights_only=True)
    assert drawn == first


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_batch_and_saves(objective, data, make_trainer, tmp_path, number):
    before = signal.getsignal(number)
    stop = Stop()
    trainer = make_trainer([At(3, lambda _: os.kill(os.getpid(), number)), stop, Checkpoint(times=1)], max_steps=10)
    trainer.fit(objective, data)
    assert trainer.global_step == 3
    assert stop.signal == number
    assert names(tmp_path) == ["kimg000000.012.ckpt"]
    assert signal.getsignal(number) == before


def test_a_second_signal_aborts(objective, data, make_trainer):
    twice = At(3, lambda _: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)])
    with pytest.raises(SystemExit):
        make_trainer([twice, Stop()], max_steps=10).fit(objective, data)


def test_a_full_disk_is_one_line_and_spares_older_checkpoints(tmp_path, monkeypatch):
    io = AtomicCheckpointIO()
    path = tmp_path / "checkpoints" / "kimg000000.001.ckpt"
    io.save_checkpoint({"a": torch.ones(3)}, path)
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match="No space left on device"):
        io.save_checkpoint({"a": torch.zeros(3)}, path)
    assert torch.equal(torch.load(path, weights_only=True)["a"], torch.ones(3))
    assert names(tmp_path) == [path.name]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_torch_reports_a_full_disk_as_we_expect(tmp_path, monkeypatch):
    path = tmp_path / "checkpoints" / "kimg000000.001.ckpt"
    path.parent.mkdir()
    (path.parent / f".{path.name}.{os.getpid()}.tmp").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"cannot write .*(No space|disk is full)"):
        AtomicCheckpointIO().save_checkpoint({"a": torch.ones(300_000)}, path)
    assert names(tmp_path) == []


def test_a_loss_that_is_not_finite_stops_with_the_checkpoint_to_go_back_to(objective, data, make_trainer, tmp_path):
    objective.loss = lambda step: float("nan") if step >= 6 else 1.0
    with pytest.raises(UserError, match=r"discriminator/loss is nan at kimg 0.0: resume=.*kimg000000.016.ckpt"):
        make_trainer([Log(every_steps=2), Checkpoint(times=5)], max_steps=20).fit(objective, data)


def test_broken_weights_are_never_saved(objective, data, make_trainer, tmp_path):
    def poison(trainer):
        trainer.lightning_module.generator[0].weight.data[0, 0] = float("inf")

    with pytest.raises(UserError, match="generator weight norm is"):
        make_trainer([At(5, poison), Checkpoint(times=5)], max_steps=10).fit(objective, data)
    assert names(tmp_path) == ["kimg000000.008.ckpt", "kimg000000.016.ckpt"][:2]
