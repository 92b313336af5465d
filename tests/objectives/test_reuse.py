"""One run of the generator for both phases."""

from functools import partial

import pytest
import torch
from conftest_objectives import Reader, make_gan, run
from torch import nn

from trainer.losses.adversarial import Relativistic
from trainer.networks.diffaugment import DiffAugment

MAKE = partial(make_gan, Relativistic(), text=Reader, matching=1.0, r1=0.1, augment=DiffAugment(), clip=1.0)


def counted(gan):
    calls = []
    gan.generator.register_forward_hook(lambda *_: calls.append(gan.discriminator.head.training))
    return calls


@pytest.mark.parametrize(("accumulate", "precision"), [(1, "bf16-mixed"), (2, "32-true")])
def test_the_same_bits_as_drawing_the_same_images_again(batches, accumulate, precision):
    twice, once = MAKE(accumulate=accumulate), MAKE(accumulate=accumulate, reuse_fakes=True)
    draw = twice.generated
    twice.generated = lambda batch, stream: draw(batch, "discriminator")
    calls = counted(once)
    run(twice, batches, precision=precision)
    run(once, batches, precision=precision)
    assert len(calls) == len(batches) * accumulate
    assert not once.kept
    for (name, a), (_, b) in zip(twice.named_parameters(), once.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    assert {key: value.item() for key, value in twice.logs.items()} == {k: v.item() for k, v in once.logs.items()}


def test_the_discriminators_phase_leaves_the_generator_alone(batches):
    gan = MAKE(reuse_fakes=True)
    frozen = gan.generator.image if isinstance(gan.generator.image, nn.Module) else next(gan.generator.children())
    weights = [*frozen.parameters()]
    for weight in weights:
        weight.requires_grad_(False)
    seen = []
    step = gan.discriminator_loss

    def watched(batch):
        value, logs = step(batch)
        seen.append(any(p.requires_grad for p in gan.generator.parameters()))
        return value, logs

    gan.phases["discriminator"] = watched
    before = [weight.clone() for weight in weights]
    run(gan, batches)
    assert seen == [False] * len(batches)
    assert all(map(torch.equal, before, weights))
    assert not any(weight.requires_grad for weight in weights)
