import os
import signal

import pytest
from pytorch_lightning.loggers.logger import Logger

from tests.callbacks.test_checkpoint import At, Measure
from trainer.callbacks.alerts import Alerts
from trainer.callbacks.checkpoint import Checkpoint
from trainer.callbacks.log import Log
from trainer.callbacks.stop import Stop
from trainer.errors import UserError


class Post(Logger):
    name, version = "post", ""

    def __init__(self):
        super().__init__()
        self.sent = []

    def log_hyperparams(self, *_, **__): ...

    def log_metrics(self, *_, **__): ...

    def alert(self, title, text, level):
        self.sent.append((title, text, level))


@pytest.fixture
def post():
    return Post()


def test_a_run_without_trouble_sends_nothing(objective, data, make_trainer, post):
    make_trainer([Measure({2: 4.0, 4: 6.0, 6: 3.0}), Log(), Alerts()], max_steps=6, logger=post).fit(objective, data)
    assert post.sent == []


def test_worse_again_is_said_once_also_after_a_restart(objective, data, make_trainer, post, tmp_path, capsys):
    values = {2: 4.0, 4: 6.1, 6: 9.0}
    make_trainer([Measure(values), Alerts(factor=1.5), Checkpoint(times=1)], 6, post).fit(objective, data)
    assert post.sent == [("Worse again", "val/fd_effnet is 6.1 at kimg 0.0, the best was 4", "WARN")]
    told = f"init={tmp_path}/checkpoints/best.ckpt begins a run from that one, with a lower lr\n"
    assert f"worse again: val/fd_effnet is 6.1 at kimg 0.0, the best was 4; {told}" in capsys.readouterr().err
    last = str(tmp_path / "checkpoints/kimg000000.024.ckpt")
    trainer = make_trainer([Measure({8: 9.0}), Alerts(factor=1.5), Checkpoint(times=1)], 8, post)
    trainer.fit(type(objective)(), data, ckpt_path=last, weights_only=True)
    assert len(post.sent) == 1 and "worse again" not in capsys.readouterr().err


def test_worse_is_lower_where_higher_is_better(objective, data, make_trainer, post):
    alerts = Alerts(factor=1.5, better="higher")
    make_trainer([Measure({2: 6.0, 4: 4.1, 6: 3.9, 8: 1.0}), Log(), alerts], 8, post).fit(objective, data)
    assert [text for _, text, _ in post.sent] == ["val/fd_effnet is 3.9 at kimg 0.0, the best was 6"]


def test_a_restart_remembers_the_best(objective, data, make_trainer, post, tmp_path):
    make_trainer([Measure({2: 4.0}), Alerts(), Checkpoint(times=1)], 2, post).fit(objective, data)
    trainer = make_trainer([Measure({4: 9.0}), Alerts(), Checkpoint(times=1)], 4, post)
    best = str(tmp_path / "checkpoints/kimg000000.008.ckpt")
    trainer.fit(type(objective)(), data, ckpt_path=best, weights_only=True)
    assert [title for title, *_ in post.sent] == ["Worse again"]


def test_a_loss_that_is_not_finite(objective, data, make_trainer, post):
    objective.loss = lambda step: float("nan")
    with pytest.raises(UserError):
        make_trainer([Log(every_steps=2), Alerts()], max_steps=6, logger=post).fit(objective, data)
    [(title, text, level)] = post.sent
    assert (title, level) == ("Diverged", "ERROR")
    assert "discriminator/loss is nan at kimg" in text


def test_another_failure(objective, data, make_trainer, post):
    def fail(_):
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError):
        make_trainer([At(2, fail), Alerts()], max_steps=6, logger=post).fit(objective, data)
    assert post.sent == [("Failed", "RuntimeError: the disk is gone", "ERROR")]


def test_a_signal_before_the_end(objective, data, make_trainer, post, tmp_path):
    for step in (2, 6):  # the second comes with the last batch and stops nothing
        post.sent.clear()
        kill = At(step, lambda _: os.kill(os.getpid(), signal.SIGTERM))
        make_trainer([kill, Stop(), Alerts()], max_steps=6, logger=post).fit(type(objective)(), data)
        stopped = [("Stopped", f"SIGTERM at kimg 0.0; everything is saved, go on with resume={tmp_path}", "WARN")]
        assert post.sent == (stopped if step == 2 else [])


def test_a_factor_that_says_nothing():
    with pytest.raises(UserError, match=r"callbacks.alerts.factor=1: expected more than 1"):
        Alerts(factor=1)
