"""AttnGAN's losses are those of its stages, one by one."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from conftest_objectives import make_attngan, make_gan, make_matching, random_batch, run
from test_gan import at_step
from torch.nn.functional import softplus

from trainer.errors import UserError
from trainer.networks.attngan import unpacked
from trainer.networks.diffaugment import DiffAugment
from trainer.objectives.attngan import AttnGAN

random_batch = partial(random_batch, resolution=32)


@pytest.fixture()
def batch():
    return random_batch().as_float()


def stage(gan, size, image, condition):
    return gan.discriminator.heads[size](gan.discriminator.trunks[size](image), condition)


def test_losses_are_means_over_the_stages(batch):
    gan = at_step(make_attngan(caption_kl=0.5))
    fakes = {}
    for stream in ("discriminator", "generator"):
        latent = gan.normal(stream, batch, gan.latent_channels)
        fakes[stream] = dict(zip(("16", "32"), gan.generator.stages(latent, batch.condition), strict=True))
    real = {"16": F.interpolate(batch.image, scale_factor=0.5, mode="area"), "32": batch.image}
    found = {size: stage(gan, size, real[size], batch.condition) for size in real}
    fake = {size: stage(gan, size, fakes["discriminator"][size], batch.condition) for size in real}
    expected = torch.stack([softplus(-found[size]) + softplus(fake[size]) for size in real]).mean()
    torch.testing.assert_close(gan.discriminator_loss(batch)[0], expected)
    logits = [stage(gan, size, fakes["generator"][size], batch.condition) for size in real]
    mean, log_variance = gan.generator.augmentation(batch.condition)
    prior = torch.distributions.Normal(0.0, 1.0)
    rate = torch.distributions.kl_divergence(torch.distributions.Normal(mean, (log_variance / 2).exp()), prior).mean()
    value, logs = gan.generator_loss(batch)
    torch.testing.assert_close(logs["generator/caption_kl"], rate)
    torch.testing.assert_close(value, softplus(-torch.stack(logits)).mean() + 0.5 * rate)


def test_r1_is_that_of_the_mean_logit(batch):
    gan = at_step(make_attngan(r1=1.0))
    _, logs = gan.discriminator_loss(batch)
    expected = 0
    for size, image in (("16", F.avg_pool2d(batch.image, 2)), ("32", batch.image)):
        image = image.detach().requires_grad_()
        (slope,) = torch.autograd.grad(stage(gan, size, image, batch.condition).sum() / 2, image)
        expected = expected + slope.square().flatten(1).sum(1).mean()
    torch.testing.assert_close(logs["discriminator/r1"], expected)


def test_all_stages_are_augmented_alike(batch):
    gan = make_attngan(augment=DiffAugment(colour=1, translation=0, cutout=0))
    small, large = unpacked(gan.perceived(batch.image, batch, "discriminator/real"), gan.generator.sizes)
    torch.testing.assert_close(small, F.avg_pool2d(large, 2), atol=1e-5, rtol=1e-5)
    assert (large - batch.image).abs().max() > 0.1


def test_the_matcher_sees_the_last_image(batch):
    gan, seen = at_step(make_attngan(matcher="run", matcher_weight=5.0)), []
    matcher = make_matching().requires_grad_(False)
    contrast = matcher.contrast
    small = lambda image: F.avg_pool2d(image, 2)  # noqa: E731  that matcher is of 16 pixels
    matcher.contrast = lambda image, *rest: seen.append(image) or contrast(small(image), *rest)
    gan.judge = SimpleNamespace(objective=matcher)
    value, logs = gan.generator_loss(batch)
    latent = gan.normal("generator", batch, gan.latent_channels)
    torch.testing.assert_close(seen[0], gan.generator(latent, batch.condition))
    gan.judge = None
    torch.testing.assert_close(value - gan.generator_loss(batch)[0], 5 * logs["generator/matcher"])


def test_trains_resumes_bit_for_bit_and_accumulates(tmp_path):
    batches = [random_batch(start=8 * i) for i in range(4)]
    make = partial(make_attngan, matching=1.0, r1=0.1, optimizer=partial(torch.optim.SGD, lr=0.05))
    whole, split, resumed = make(), make(accumulate=2), make()
    before = {key: value.clone() for key, value in whole.state_dict().items()}
    run(whole, batches)
    assert not [key for key, value in whole.named_parameters() if torch.equal(value, before[key])]
    run(make(), batches[:2]).save_checkpoint(tmp_path / "half.ckpt")
    run(resumed, batches[2:], ckpt_path=tmp_path / "half.ckpt", max_epochs=2)
    run(split, batches)
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
        torch.testing.assert_close(value, split.state_dict()[key], atol=2e-5, rtol=1e-4, msg=key)


def test_other_networks_are_refused():
    gan = make_gan()
    loop = {"loss": gan.loss, "optimizer": {}, "schedule": gan.schedule, "seed": 0}
    with pytest.raises(UserError, match=r"generator=Generator, discriminator=Discriminator: expected both of attngan"):
        AttnGAN(gan.generator, gan.discriminator, **loop)
    with pytest.raises(UserError, match=r"consistency=1.0: it knows no images in stages"):
        make_attngan(augment=DiffAugment(), consistency=1.0)
