"""What a training step does on a real GPU."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from conftest_objectives import Reader, make_gan, make_vae, random_batch
from torch.utils.data import DataLoader

from trainer.callbacks.ema import EMA
from trainer.callbacks.log import Log
from trainer.callbacks.throughput import Throughput
from trainer.losses.adversarial import Relativistic
from trainer.networks.diffaugment import DiffAugment
from trainer.objectives.span import Span
from trainer.strategies.single import Single

pytestmark = pytest.mark.gpu
FUSED = partial(torch.optim.Adam, lr=1e-3, betas=(0.0, 0.99), fused=True)
OBJECTIVES = {
    "gan": partial(make_gan, optimizer=FUSED, augment=DiffAugment(), matching=1.0, clip=1.0),
    "exact": partial(make_gan, Relativistic(), FUSED, text=Reader, r1=0.1, r2=0.1, gradient_penalty=1.0, accumulate=2),
    "difference": partial(make_gan, optimizer=FUSED, r1=0.1, finite_difference=0.01, penalty_interval=2),
    "vae": partial(make_vae, FUSED, clip=1.0, warmup_kimg=0.1),
}


class NoWaiting(pl.Callback):
    """From the third step on, whatever makes the host wait for the GPU between the start and the end is an error."""

    def on_train_batch_start(self, trainer, objective, batch, index):
        torch.cuda.set_sync_debug_mode("error" if index > 1 else "default")

    def on_train_batch_end(self, trainer, objective, *_):
        torch.cuda.set_sync_debug_mode("default")


def fit(objective, batches, callbacks=(), ckpt_path=None, **options):
    options = {"max_epochs": 1, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False} | options
    trainer = pl.Trainer(
        strategy=Single(), accelerator="cuda", devices=1, callbacks=[*callbacks], enable_model_summary=False,
        use_distributed_sampler=False, **options,
    )  # fmt: skip
    loader = DataLoader(batches, batch_size=None, pin_memory=True)
    try:
        trainer.fit(objective, loader, ckpt_path=ckpt_path)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return trainer


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_no_step_waits_for_the_gpu(name, precision):
    """Means of losses and timings are read at the fifth step, behind the watched part of it."""
    objective = OBJECTIVES[name]()
    callbacks = [EMA(halflife_kimg=0.05), NoWaiting(), Log(5), Throughput(5, phases_every=1, warmup_steps=1)]
    trainer = fit(objective, [random_batch(start=8 * i) for i in range(6)], callbacks, precision=precision)
    assert trainer.strategy.root_device.type == "cuda"  # a trained objective is brought back
    for phase in objective.phases:
        assert 0 < trainer.callback_metrics[f"throughput/{phase}_ms"] < 10_000
        assert trainer.callback_metrics[f"{phase}/loss"].isfinite()


def test_the_watch_sees_a_wait():
    class Waits(pl.Callback):
        def on_train_batch_start(self, trainer, objective, batch, index):
            batch.image.sum().item()

    with pytest.raises(RuntimeError, match="synchroniz"):
        fit(make_gan(), [random_batch() for _ in range(4)], [NoWaiting(), Waits()])


@pytest.mark.parametrize("name", ["gan", "vae"])
def test_a_resumed_run_goes_on(name, tmp_path):
    batches = [random_batch(start=8 * i) for i in range(8)]
    whole, half, rest = (OBJECTIVES[name]() for _ in range(3))
    fit(whole, batches, [EMA(halflife_kimg=0.05)])
    fit(half, batches[:4], [EMA(halflife_kimg=0.05)]).save_checkpoint(tmp_path / "half.ckpt")
    fit(rest, batches[4:], [EMA(halflife_kimg=0.05)], tmp_path / "half.ckpt", max_epochs=2)
    assert rest.images_seen == whole.images_seen == 64
    for (key, a), (_, b) in zip(whole.named_parameters(), rest.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3, msg=lambda m, key=key: f"{key}: {m}")


def test_pinned_batches_keep_their_layout():
    batch = random_batch()
    pinned = batch.pin_memory()
    parts = (pinned.image, *pinned.condition, pinned.caption, pinned.position)
    assert all(part.is_pinned() for part in parts)
    assert pinned.image.stride() == batch.image.stride()
    assert torch.equal(pinned.image, batch.image)


def test_a_span_is_the_time_of_the_gpu():
    a = torch.randn(2048, 2048, device="cuda")
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        span = Span(a.device)
        for _ in range(20):
            a = a @ a
        span.stop()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert 1e-5 < float(span) < 10


def test_on_any_device_the_same_losses():
    batch = random_batch().as_float()
    from test_gan import at_step

    here, there = at_step(make_gan(matching=1.0, r1=1.0)), at_step(make_gan(matching=1.0, r1=1.0)).cuda()
    moved = type(batch)(*(each.to("cuda") for each in (batch.image, batch.condition, batch.caption, batch.position)))
    for key, value in here.discriminator_loss(batch)[1].items():
        torch.testing.assert_close(there.discriminator_loss(moved)[1][key].cpu(), value, atol=1e-3, rtol=1e-3)
