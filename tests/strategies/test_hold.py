"""A gradient that leaves the numbers touches nothing, and the network that had it is named with the step."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from conftest_objectives import make_gan, random_batch, run
from matrix import result
from matrix import run as train

from trainer.callbacks.ema import EMA
from trainer.callbacks.log import Log
from trainer.errors import DivergedError
from trainer.strategies.hold import LIMIT, Hold

ADAM = partial(torch.optim.Adam, lr=1e-3, betas=(0.0, 0.99))


class Break(pl.Callback):
    """One element of one gradient of `network` is `value` in step `step`, counted from 1."""

    def __init__(self, network, value, step):
        self.network, self.value, self.step = network, value, step

    def on_train_start(self, trainer, objective):
        weight = next(objective.network(self.network).parameters())

        def hook(gradient):
            if trainer.global_step + 1 != self.step:
                return gradient
            broken = gradient.clone()
            broken[(0,) * broken.dim()] = self.value
            return broken

        weight.register_hook(hook)


def everything(trainer, objective):
    tensors = [*objective.state_dict().values(), *objective.ema.values()]
    states = [state for optimizer in trainer.optimizers for state in optimizer.state.values()]
    return [*tensors, *(value for state in states for value in state.values())]


class Copy(pl.Callback):
    """What there was after each step."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, objective, *_):
        self.seen.append([each.clone() for each in everything(trainer, objective)])


@pytest.mark.parametrize(
    ("network", "value", "fused", "clip"),
    [
        ("generator", 1e25, True, None),
        ("discriminator", 1e25, False, None),
        ("discriminator", float("nan"), True, 1.0),
        ("generator", float("inf"), False, 1.0),
        ("discriminator", -1e20, True, 1.0),
    ],
)
def test_it_is_seen_in_its_step_and_named(network, value, fused, clip, tmp_path):
    gan = make_gan(optimizer=partial(ADAM, fused=fused), clip=clip)
    batches = [random_batch(start=8 * i) for i in range(6)]
    copy = Copy()
    callbacks = [EMA(0.05), Break(network, value, 3), copy, Log(20)]
    with pytest.raises(DivergedError, match=rf"the gradient of {network} is .* in step 3, kimg 0\.0: start again with"):
        run(gan, batches, callbacks=callbacks, default_root_dir=tmp_path)
    assert gan.trainer.global_step == 3
    assert all(torch.isfinite(each).all() for each in copy.seen[-1])
    whole = Copy()
    run(make_gan(optimizer=partial(ADAM, fused=fused), clip=clip), batches[:3], callbacks=[EMA(0.05), whole])
    names = [name.split(".")[0] for name in gan.state_dict()]
    for name, before, after, other in zip(names, copy.seen[1], copy.seen[2], whole.seen[2], strict=False):
        assert torch.equal(after, before if name == network else other) or name == "generator" != network
    assert len(gan.trainer.strategy.holds) == 2


def test_without_a_log_the_next_checkpoint_tells(tmp_path):
    from trainer.callbacks.checkpoint import Checkpoint

    gan = make_gan(optimizer=ADAM)
    gan.config = {"kimg": 1}
    batches = [random_batch(start=8 * i) for i in range(6)]
    with pytest.raises(DivergedError, match=r"the gradient of discriminator is .* in step 2,"):
        run(gan, batches, callbacks=[Break("discriminator", 1e25, 2), Checkpoint(times=2)], default_root_dir=tmp_path,
            max_steps=6)  # fmt: skip
    assert not [*tmp_path.glob("checkpoints/*.ckpt")]


def test_norms_within_bounds_hold_nothing_back():
    hold = Hold(torch.device("cpu"))
    for norm in (0.0, 1.0, LIMIT / 2):
        hold.see(torch.tensor(norm))
        assert not hold.age
    for age, norm in enumerate((LIMIT * 1.1, 1.0, float("nan")), 1):
        hold.see(torch.tensor(norm))
        assert hold.age == age


@pytest.mark.gpu
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("value", [1e25, float("nan")])
def test_on_a_gpu_nothing_waits_and_nothing_is_touched(fused, value):
    weight = torch.nn.Parameter(torch.randn(100, device="cuda"))
    optimizer, hold = ADAM([weight], lr=0.1, fused=fused), Hold(weight.device)
    for step in range(6):
        weight.grad = torch.randn_like(weight)
        if step == 3:
            weight.grad[7] = value
            before = weight.detach().clone()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            hold.see(torch.nn.utils.get_total_norm([weight.grad]))
            hold.step(optimizer, [weight.grad])
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert hold.age == 3
    assert torch.equal(weight, before)  # betas[0] is 0: a gradient of 0 moves nothing, either
    assert all(torch.isfinite(state).all() for state in optimizer.state[weight].values())


@pytest.mark.slow
@pytest.mark.sampled(3)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "zero1", "zero2", "zero3"])
def test_two_ranks_hold_it_back_alike(strategy, tmp_path):
    """The gradient of one rank is 1e25 times as large: both see it in that step, and nothing of theirs is inf."""
    case = "hinge/fp32/break=1e25"
    train(strategy, 2, tmp_path, [case])
    for rank in (0, 1):
        seen = result(tmp_path, case, 2, rank)
        assert seen["held"].keys()
        assert all(held.isfinite().all() for held in seen["held"].values())
        assert seen["ages"] == [0.0, 11.0], "of discriminator and generator: in step 10 of 20"
    whole = result(tmp_path, case, 2)
    states = [state for optimizer in whole["optimizer"] for state in optimizer["state"].values()]
    assert states
    for kept in (*states, whole["ema"]):
        assert all(torch.as_tensor(value).isfinite().all() for value in kept.values())
