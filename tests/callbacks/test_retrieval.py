"""R-precision during training: of the EMA weights, of held-out images, in the rhythm of the budget."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from trainer.batch import Condition
from trainer.callbacks.ema import EMA
from trainer.callbacks.retrieval import Retrieval
from trainer.errors import UserError

NUM = 12


class Matcher(torch.nn.Module):
    """Reads the number of an image from its brightness and that of a caption from its text: right, or one beside."""

    def __init__(self):
        super().__init__()
        self.shift = torch.nn.Parameter(torch.zeros(()))

    def vector(self, number):
        return torch.nn.functional.one_hot(number.round().long() % NUM, NUM).float()

    def image(self, image):
        return self.vector((image[:, 0, 0, 0] + 1) * 127.5 + self.shift), None

    def text(self, condition):
        return self.vector(condition.pooled[:, 0]), None


@pytest.fixture
def matching(objective, data):
    objective.generator = objective.matcher = Matcher()
    objective.averaged, objective.phases = ("matcher",), {"matcher": None}
    objective.training_step = lambda batch: step(objective, batch)
    data.text = lambda captions: Condition(*3 * [torch.tensor([[float(caption)] for caption in captions])])
    images = np.tile(np.arange(NUM, dtype=np.uint8)[:, None, None, None], (1, 8, 8, 3))
    data.heldout = SimpleNamespace(images=images, captions=[str(number) for number in range(NUM)])
    return objective


def step(objective, batch):
    objective.matcher.shift.data += 1  # the live weights are always wrong, their average stays near 0
    steps = objective.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
    steps.increment_ready()
    steps.increment_completed()
    objective.images_seen += len(batch)


def test_it_measures_the_average_in_the_rhythm_of_the_budget(matching, data, make_trainer, capsys):
    trainer = make_trainer([EMA(halflife_kimg=1e6, rampup_ratio=1e9), Retrieval(times=2, candidates=10)])
    trainer.fit(matching, datamodule=data)
    assert trainer.callback_metrics["val/r_precision"] == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if "val/r_precision" in line]
    assert lines == [f"kimg 0.0  val/r_precision 100.00%  {NUM} held-out images"] * 2


def test_wrong_captions_are_told(matching, data, make_trainer):
    trainer = make_trainer([Retrieval(times=1, candidates=NUM)], max_steps=1)
    trainer.fit(matching, datamodule=data)  # without an average, by weights that are one beside
    assert trainer.callback_metrics["val/r_precision"] == 0


def test_too_few_captions_turn_it_off(matching, data, make_trainer, capsys):
    trainer = make_trainer([Retrieval(times=1, candidates=NUM + 1)])
    trainer.fit(matching, datamodule=data)
    assert "val/r_precision" not in trainer.callback_metrics
    assert f"it needs {NUM + 1} held-out captions, there are {NUM}" in capsys.readouterr().err


def test_arguments_are_checked():
    with pytest.raises(UserError, match="candidates=1"):
        Retrieval(candidates=1)
