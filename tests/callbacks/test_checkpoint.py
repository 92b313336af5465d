import os
import random
import signal

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback

from trainer.callbacks.checkpoint import Checkpoint, link
from trainer.callbacks.checkpoint_io import AtomicCheckpointIO, agree, recover, remove, replace
from trainer.callbacks.log import Log, record
from trainer.callbacks.stop import Stop
from trainer.errors import UserError
from trainer.runs import checkpoint, checkpoint_files


def names(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


class At(Callback):
    """Does something after a given step."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_train_batch_end(self, trainer, module, *_):
        if trainer.global_step == self.step:
            self.action(trainer)


class Measure(Callback):
    """Says that the metric has these values at these steps."""

    def __init__(self, values):
        self.values = values

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step in self.values:
            record(trainer, {"val/fd_effnet": self.values[trainer.global_step]})


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


def test_a_file_is_on_disk_before_it_has_its_name_and_the_name_thereafter(tmp_path, monkeypatch):
    done, sync, rename = [], os.fsync, os.replace

    def synced(handle):
        done.append(f"sync {os.path.relpath(os.readlink(f'/proc/self/fd/{handle}'), tmp_path)}")
        sync(handle)
        if done[-1] == "sync .":
            raise OSError(22, "Invalid argument")  # of a file system that knows it of files alone

    def renamed(old, new):
        done.append(f"{old.name} becomes {new.name}")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    AtomicCheckpointIO().save_checkpoint({"a": torch.ones(3)}, tmp_path / "a.ckpt")
    temporary = f".a.ckpt.{os.getpid()}.tmp"
    assert done == [f"sync {temporary}", f"{temporary} becomes a.ckpt", "sync ."]


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


def test_the_best_outlives_the_newest(objective, data, make_trainer, tmp_path):
    saving = Checkpoint(times=5, keep=2)
    values = {2: 9.0, 3: 5.0, 6: 7.0, 8: float("nan"), 10: 5.0}
    make_trainer([Measure(values), saving], max_steps=10).fit(objective, data)
    assert saving.best == 5.0
    assert names(tmp_path) == ["best.ckpt", "kimg000000.032.ckpt", "kimg000000.040.ckpt"]
    best = checkpoint.read(tmp_path / "checkpoints" / "best.ckpt")
    assert (best["global_step"], best["images_seen"]) == (3, 12)
    assert best["measured"] == {"metric": "val/fd_effnet", "value": 5.0, "kimg": 0.012}
    assert checkpoint.newest(tmp_path).name == "kimg000000.040.ckpt"
    assert checkpoint.newest(tmp_path / "checkpoints" / "best.ckpt").name == "best.ckpt"


def test_the_best_is_a_second_name(objective, data, make_trainer, tmp_path):
    make_trainer([Measure({5: 1.0}), Checkpoint(times=2)], max_steps=10).fit(objective, data)
    folder = tmp_path / "checkpoints"
    assert (folder / "best.ckpt").samefile(folder / "kimg000000.020.ckpt")


def test_higher_may_be_better(objective, data, make_trainer, tmp_path):
    saving = Checkpoint(times=1, better="higher")
    make_trainer([Measure({2: 5.0, 3: 9.0, 4: 7.0}), saving], max_steps=5).fit(objective, data)
    assert saving.best == 9.0
    assert checkpoint.read(tmp_path / "checkpoints" / "best.ckpt")["global_step"] == 3
    with pytest.raises(UserError, match="expected lower or higher"):
        Checkpoint(better="larger")


def test_a_resumed_run_knows_its_best(objective, data, make_trainer, tmp_path):
    make_trainer([Measure({2: 5.0, 4: 6.0}), Checkpoint(times=2)], max_steps=4).fit(objective, data)
    saving = Checkpoint(times=2)
    trainer = make_trainer([Measure({6: 5.5, 8: 4.0}), At(6, lambda _: seen.append(saving.best)), saving], max_steps=8)
    seen = []
    trainer.fit(type(objective)(), data, ckpt_path=str(tmp_path / "checkpoints/kimg000000.016.ckpt"), weights_only=True)
    assert (seen, saving.best) == ([5.0], 4.0)  # 5.5 was no improvement
    assert checkpoint.read(tmp_path / "checkpoints/best.ckpt")["global_step"] == 8


def test_a_best_that_a_resume_gives_up_is_set_aside(objective, data, make_trainer, tmp_path):
    make_trainer([Measure({6: 5.0}), Checkpoint(times=4, keep=4)], max_steps=8).fit(objective, data)
    saving = Checkpoint(times=1)
    trainer = make_trainer([saving], max_steps=4)
    trainer.fit(type(objective)(), data, ckpt_path=str(tmp_path / "checkpoints/kimg000000.008.ckpt"), weights_only=True)
    assert saving.best is None
    assert "best.ckpt" not in names(tmp_path)
    assert (tmp_path / "checkpoints/set_aside/kimg000000.024.ckpt").exists()


def as_parts(path):
    """A checkpoint as two ranks would have written it."""
    content = torch.load(path, weights_only=True)
    path.unlink()
    path.mkdir()
    for rank in range(2):
        torch.save(content, path / checkpoint_files.rank_file(rank, 2))


@pytest.mark.parametrize("sharded", [False, True])
def test_a_kill_between_the_best_and_its_name_loses_nothing(objective, data, make_trainer, tmp_path, sharded):
    make_trainer([Measure({2: 70.0, 4: 60.0}), Checkpoint(times=2)], max_steps=4).fit(objective, data)
    folder = tmp_path / "checkpoints"
    newest, older = folder / "kimg000000.016.ckpt", folder / "kimg000000.008.ckpt"
    remove(folder / "best.ckpt")
    for path in (newest, older) if sharded else ():
        as_parts(path)
    link(older, folder / "best.ckpt")  # as the kill left it
    saving = Checkpoint(times=1)
    trainer = make_trainer([saving], max_steps=5)
    trainer.fit(type(objective)(), data, ckpt_path=str(newest), weights_only=True)
    assert saving.best == 60.0
    assert checkpoint.read(folder / "best.ckpt")["global_step"] == 4


def test_a_better_best_is_not_replaced_by_the_newest(objective, data, make_trainer, tmp_path):
    make_trainer([Measure({2: 50.0, 4: 60.0}), Checkpoint(times=2)], max_steps=4).fit(objective, data)
    saving = Checkpoint(times=1)
    newest = tmp_path / "checkpoints" / "kimg000000.016.ckpt"
    make_trainer([saving], max_steps=5).fit(type(objective)(), data, ckpt_path=str(newest), weights_only=True)
    assert saving.best == 50.0
    assert checkpoint.read(tmp_path / "checkpoints" / "best.ckpt")["global_step"] == 2


def test_a_damaged_best_is_told_and_replaced(objective, data, make_trainer, tmp_path, capsys):
    make_trainer([Measure({2: 50.0, 3: 70.0}), Checkpoint(times=2, keep=1)], max_steps=4).fit(objective, data)
    best = tmp_path / "checkpoints" / "best.ckpt"
    best.write_bytes(best.read_bytes()[:-100])
    saving = Checkpoint(times=1)
    newest = tmp_path / "checkpoints" / "kimg000000.016.ckpt"
    trainer = make_trainer([Measure({6: 65.0}), saving], max_steps=6)
    trainer.fit(type(objective)(), data, ckpt_path=str(newest), weights_only=True)
    assert saving.best == 65.0
    assert "best.ckpt is cut short" in capsys.readouterr().err
    assert checkpoint.read(best)["global_step"] == 6


def test_beyond_a_billion_images_the_newest_stay(objective, data, make_trainer, tmp_path):
    objective.images_seen = 999_999_980
    make_trainer([Checkpoint(times=10, keep=2)], max_steps=10).fit(objective, data)
    assert names(tmp_path) == ["kimg1000000.016.ckpt", "kimg1000000.020.ckpt"]
    assert checkpoint.newest(tmp_path).name == "kimg1000000.020.ckpt"


@pytest.mark.parametrize("killed", [False, True])
def test_a_folder_takes_the_place_of_another(tmp_path, monkeypatch, killed):
    """The old one is gone only when the new one is there; a kill between the two leaves one of them."""
    old, new = tmp_path / "1.ckpt", tmp_path / ".1.ckpt.tmp"
    for folder in (old, new):
        folder.mkdir()
        (folder / "part").write_text("new" if folder is new else "old")
    if killed:
        rename = os.replace
        monkeypatch.setattr(os, "replace", lambda a, b: rename(a, b) if a == old else (_ for _ in ()).throw(SystemExit))
        with pytest.raises(SystemExit):
            replace(new, old)
        monkeypatch.undo()
        assert not old.exists()
        recover(tmp_path)
    else:
        replace(new, old)
    assert (old / "part").read_text() == ("old" if killed else "new")
    assert not list(tmp_path.glob(".*.old.tmp"))


def test_an_error_of_one_rank_is_told_on_all(monkeypatch):
    """Also one that is no UserError; the others would wait for it in the next collective."""

    def gather(found, mine, group):
        found[:] = [None, "RuntimeError: a bug"] if mine is None else [mine, None]

    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    with pytest.raises(UserError, match="rank 1: RuntimeError: a bug"):
        agree(lambda: None)
    with pytest.raises(ZeroDivisionError):
        agree(lambda: 1 / 0)


@pytest.mark.parametrize("hard_links", [True, False])
def test_link_names_files_and_folders_anew(tmp_path, monkeypatch, hard_links):
    if not hard_links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(1, "Operation not permitted")))
    file, folder, name = tmp_path / "1.ckpt", tmp_path / "2.ckpt", tmp_path / "best.ckpt"
    file.write_text("file")
    folder.mkdir()
    (folder / "rank0").write_text("part")
    for source in (file, folder, folder, file, file):
        link(source, name)
        assert (name / "rank0" if source is folder else name).read_text() == ("part" if source is folder else "file")
    file.unlink()
    assert name.read_text() == "file"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2.ckpt", "best.ckpt"]
