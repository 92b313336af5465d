"""Averages whose length is chosen after training: against ones that were tracked all along."""

import pytest
import torch
from pytorch_lightning import Callback

from trainer.callbacks.checkpoint import Checkpoint
from trainer.callbacks.ema import EMA
from trainer.callbacks.posthoc import PostHocEMA
from trainer.errors import UserError
from trainer.runs import posthoc
from trainer.runs.posthoc import averaged, decay, exponent, solve

KEY = "generator.0.weight"


class Wander(Callback):
    """Weights that move and turn, and power-function averages of them tracked in double precision."""

    def __init__(self, lengths):
        self.tracked = dict.fromkeys(lengths)

    def on_train_batch_end(self, trainer, objective, *_):
        t = objective.images_seen
        weight = objective.generator[0].weight
        with torch.no_grad():
            weight.copy_(torch.linspace(0, 6, weight.numel()).view_as(weight).add(t / 150).sin() + t / 1000)
        for length, average in self.tracked.items():
            kept = decay(length, 4, t)
            self.tracked[length] = weight.double() if average is None else kept * average + (1 - kept) * weight.double()


@pytest.mark.parametrize("length", [0.03, 0.05, 0.1, 0.25])
def test_a_length_is_the_deviation_of_its_profile(length):
    """By numbers: p(tau) = (g + 1) tau^g on [0, 1]."""
    g = exponent(length)
    tau = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    profile = (g + 1) * tau**g / 200_000
    mean = (profile * tau).sum()
    assert profile.sum() == pytest.approx(1, abs=1e-4)
    assert (profile * (tau - mean) ** 2).sum().sqrt() == pytest.approx(length, rel=1e-3)


def test_steps_weigh_the_weights_as_the_profile_says():
    g, weights = exponent(0.1), torch.zeros(50, dtype=torch.float64)
    for step in range(50):
        weights *= decay(0.1, 4, 4 * (step + 1))
        weights[step] = 1 - weights.sum()
    edges = (torch.arange(51, dtype=torch.float64) / 50) ** (g + 1)
    torch.testing.assert_close(weights, edges.diff())


def test_the_factors_are_of_the_nearest_profile():
    """Against least squares of the profiles themselves, on a grid."""
    known = [(length, time) for time in (250.0, 500.0, 1000.0) for length in (0.05, 0.1)]
    factors, missed = solve(known, 0.08, 1000.0)
    tau = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20

    def profile(length, time):
        g = exponent(length)
        return torch.where(tau < time, (g + 1) * tau**g / time ** (g + 1), 0)

    basis, wanted = torch.stack([profile(*each) for each in known], 1), profile(0.08, 1000.0)
    others, rest = basis[:, 1:] - basis[:, :1], wanted - basis[:, 0]  # the first factor is 1 - the others
    expected = torch.linalg.lstsq(others, rest[:, None]).solution[:, 0]
    expected = torch.cat([1 - expected.sum(0, keepdim=True), expected])
    assert factors == pytest.approx(expected.tolist(), rel=1e-2, abs=1e-3)
    found = basis @ torch.tensor(factors, dtype=torch.float64)
    assert missed == pytest.approx(((found - wanted).norm() / wanted.norm()).item(), rel=0.02)
    assert solve(known, 0.1, 1000.0)[1] < 1e-6
    assert sum(factors) == pytest.approx(1)


def test_the_average_is_that_which_was_tracked(objective, data, make_trainer, tmp_path):
    wander = Wander([0.05, 0.07, 0.1, 0.15])
    callbacks = [wander, EMA(halflife_kimg=0.05), PostHocEMA(times=16), Checkpoint(times=2, metric="none")]
    make_trainer(callbacks, max_steps=240).fit(objective, data)
    assert len([*(tmp_path / "snapshots").iterdir()]) == 16
    live = objective.generator[0].weight.detach()
    for length, tracked in wander.tracked.items():
        file = averaged(tmp_path, length)
        assert file.name == f"ema{length:.4f}-kimg000000.960.ckpt"
        found = torch.load(file, weights_only=True)
        assert "optimizer_states" not in found
        assert found["ema"].keys() == objective.ema.keys()
        apart = (found["ema"][KEY] - tracked).abs().max()
        assert apart < 5e-3 * (live - tracked).abs().max()


def test_a_resumed_run_has_the_same_snapshots(objective, data, make_trainer, tmp_path):
    class Save(Callback):
        def on_train_batch_end(self, trainer, module, *_):
            if trainer.global_step == 5:
                trainer.save_checkpoint(tmp_path / "half.ckpt")

    callbacks = [EMA(halflife_kimg=1), PostHocEMA(times=4), Save()]
    make_trainer(callbacks, max_steps=8).fit(objective, data)
    file = tmp_path / "snapshots" / "kimg000000.032.ckpt"
    before = torch.load(file, weights_only=True)
    file.unlink()
    again = type(objective)()
    make_trainer([EMA(halflife_kimg=1), PostHocEMA(times=4)], max_steps=8).fit(
        again, data, ckpt_path=str(tmp_path / "half.ckpt"), weights_only=True
    )
    after = torch.load(file, weights_only=True)
    assert before["averages"].keys() == after["averages"].keys()
    assert all(torch.equal(before["averages"][key], after["averages"][key]) for key in before["averages"])


def test_off_it_does_nothing_and_a_late_start_is_refused(objective, data, make_trainer, tmp_path):
    make_trainer([EMA(halflife_kimg=1), PostHocEMA(), Checkpoint(metric="none")], max_steps=4).fit(objective, data)
    assert not (tmp_path / "snapshots").exists()
    file = tmp_path / "checkpoints" / "kimg000000.016.ckpt"
    assert "posthoc" not in torch.load(file, weights_only=True)
    with pytest.raises(UserError, match=r"has no snapshots; train with callbacks\.posthoc\.times"):
        averaged(tmp_path, 0.05)
    trainer = make_trainer([EMA(halflife_kimg=1), PostHocEMA(times=4)], max_steps=8)
    with pytest.raises(UserError, match="averages are of a whole run"):
        trainer.fit(type(objective)(), data, ckpt_path=str(file), weights_only=True)


def test_lengths_that_cannot_be_are_refused(objective, data, make_trainer, tmp_path):
    for length in (0, 0.3, "long"):
        with pytest.raises(UserError, match=r"ema=.*: expected a length relative to the training"):
            averaged(tmp_path, length)
    callbacks = [EMA(halflife_kimg=1), PostHocEMA(times=1), Checkpoint(metric="none")]
    make_trainer(callbacks, max_steps=4).fit(objective, data)
    with pytest.raises(UserError, match="1 snapshots give such an average but for"):
        averaged(tmp_path, 0.01)
    assert posthoc.LENGTHS == (0.05, 0.1)
