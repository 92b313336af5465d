import torch
from pytorch_lightning import Callback

from trainer.callbacks.ema import EMA


def test_matches_the_recurrence_through_the_ramp(objective, data, make_trainer):
    shadow = objective.generator[0].weight.detach().clone()
    steps = []

    class Recorder(Callback):
        def on_train_batch_end(self, trainer, module, *_):
            steps.append(module.generator[0].weight.detach().clone())

    make_trainer([EMA(halflife_kimg=0.008, rampup_ratio=1.0), Recorder()], max_steps=5).fit(objective, data)
    for step, weight in enumerate(steps, start=1):
        decay = 0.5 ** (4 / min(8.0, 4.0 * step))
        shadow = decay * shadow + (1 - decay) * weight
    torch.testing.assert_close(objective.ema["generator.0.weight"], shadow, atol=1e-6, rtol=0)


def test_only_the_parameters_of_averaged_networks(objective, data, make_trainer):
    make_trainer([EMA(halflife_kimg=1)], max_steps=3).fit(objective, data)
    assert set(objective.ema) == {f"generator.{key}" for key, _ in objective.generator.named_parameters()}


def test_a_resumed_run_ends_with_the_same_shadows(objective, data, make_trainer, tmp_path):
    trainer = make_trainer([EMA(halflife_kimg=0.02)], max_steps=6)

    class Save(Callback):
        def on_train_batch_end(self, trainer, module, *_):
            if trainer.global_step == 3:
                trainer.save_checkpoint(tmp_path / "half.ckpt")

    trainer.callbacks.append(Save())
    trainer.fit(objective, data)
    again = type(objective)()
    make_trainer([EMA(halflife_kimg=0.02)], max_steps=6).fit(
        again, data, ckpt_path=str(tmp_path / "half.ckpt"), weights_only=True
    )
    assert again.images_seen == objective.images_seen == 24
    assert torch.equal(again.ema["generator.0.weight"], objective.ema["generator.0.weight"])


def test_half_life_means_half():
    ema = EMA(halflife_kimg=1, rampup_ratio=1e9)
    assert ema.decay(1000, 5000) == 0.5
    assert EMA(halflife_kimg=0).decay(64, 1000) == 0.0
