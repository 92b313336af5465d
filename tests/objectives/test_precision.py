"""What runs in bfloat16 and what does not."""

from functools import partial

import pytest
import torch
from conftest_objectives import make_gan, make_vae, random_batch, run
from test_gan import at_step
from torch import nn

from trainer.losses import regularizers


@pytest.fixture()
def batch():
    return random_batch().as_float()


def bf16():
    return torch.autocast("cpu", torch.bfloat16)


def test_images_of_the_batch_ask_for_no_gradient(batch):
    """Where nothing augments, what R1 differentiates by is the batch that the generator's phase sees, too."""
    gan = at_step(make_gan(r1=1.0, r2=1.0, gradient_penalty=1.0))
    gan.discriminator_loss(batch)[0].backward()
    assert not batch.image.requires_grad
    assert batch.image.grad is None


@pytest.mark.parametrize("make", [make_gan, make_vae])
def test_two_steps_of_a_network_within_one_autocast(make):
    """Autocast may keep bf16 copies of weights until it ends, and that around the loop spans a batch."""

    class Twice(type(make())):
        def training_step(self, batch, batch_idx):
            with torch.autocast("cpu", torch.bfloat16, cache_enabled=True):  # Lightning says False, of late
                super().training_step(batch, batch_idx)
                super().training_step(batch, batch_idx)

    batches = [random_batch(start=8 * i) for i in range(3)]
    start, apart, together = (make(optimizer=partial(torch.optim.SGD, lr=0.3)) for _ in range(3))
    together.__class__ = Twice
    run(apart, [each for each in batches for _ in range(2)], precision="bf16-mixed")
    run(together, batches)
    models = (start, apart, together)
    before, one, two = (torch.cat([p.reshape(-1) for p in each.parameters()]) for each in models)
    assert (one - two).norm() < 0.05 * (one - before).norm()


def test_generated_images_are_as_fine_as_real_ones(batch):
    seen = []

    class Look(nn.Module):
        num_draws = 1

        def forward(self, images, uniform):
            seen.append(images.dtype)
            return images

    gan = at_step(make_gan(augment=Look()))
    with bf16():
        gan.discriminator_loss(batch)
        gan.generator_loss(batch)
    assert seen == [torch.float32] * 3


@pytest.mark.parametrize("penalty", ["r1", "r2", "gradient_penalty"])
def test_exact_penalties_are_those_of_float32(batch, penalty):
    gan = at_step(make_gan(**{penalty: 1.0}))
    key = f"discriminator/{penalty}"
    fake = torch.rand(8, 3, 16, 16)
    gan.generated = lambda *_: fake
    exact = gan.discriminator_loss(batch)[1]
    with bf16():
        assert torch.equal(gan.discriminator_loss(batch)[1][key], exact[key])
        at_step(gan, step=1).penalty_interval = 2
        rounded = gan.discriminator_loss(batch)[1]  # no penalty is due, so as little as may be is float32
    assert key not in rounded
    assert rounded["discriminator/real_logits"] != exact["discriminator/real_logits"]


def test_finite_differences_are_those_of_float32(batch):
    """In bf16 they were 14 times as large as the penalty, of rounding alone."""
    gan = at_step(make_gan(r1=1.0, finite_difference=0.01))
    exact = gan.discriminator_loss(batch)[1]["discriminator/r1"]
    with bf16():
        assert torch.equal(gan.discriminator_loss(batch)[1]["discriminator/r1"], exact)


def test_a_finite_difference_takes_the_logits_that_are_there(batch):
    calls = []

    def judge(image):
        calls.append(image)
        return image.flatten(1).sum(1)

    images, step = batch.image, torch.randn_like(batch.image)
    value = regularizers.approximate_r1(judge, images, judge(images), step, 0.1)
    torch.testing.assert_close(value, step.flatten(1).sum(1).square(), rtol=1e-3, atol=1e-2)
    assert len(calls) == 2


@pytest.mark.parametrize(("finite_difference", "penalty"), [(0.0, "r1"), (0.01, "gradient_penalty")])
def test_what_is_differentiated_twice_is_whole(batch, finite_difference, penalty):
    """Of split weights there is no second derivative: the gradient penalty has one, with finite differences, too."""
    gan = at_step(make_gan(finite_difference=finite_difference, **{penalty: 1.0}))
    asked = []
    whole = gan.strategy.full_params
    gan.strategy.full_params = lambda network: (asked.append(network), whole(network))[1]
    gan.discriminator_loss(batch)
    assert asked == [gan.discriminator]
