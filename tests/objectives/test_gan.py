"""The GAN's losses against their written formulas."""

import types
from types import SimpleNamespace

import pytest
import torch
from conftest_objectives import make_gan, random_batch, run
from torch import nn
from torch.nn.functional import softplus

from trainer.errors import UserError
from trainer.losses.adversarial import Hinge, NonSaturating, Relativistic, Wasserstein
from trainer.networks import dcgan
from trainer.networks.ada import Adaptive
from trainer.networks.diffaugment import DiffAugment
from trainer.objectives.guidance import DROPPED
from trainer.objectives.mismatch import mismatch
from trainer.strategies.single import Single


def at_step(gan, step=0):
    gan._trainer = types.SimpleNamespace(global_step=step, world_size=1, strategy=Single("cpu"))
    return gan


@pytest.fixture()
def batch():
    return random_batch().as_float()


def fakes(gan, batch, stream):
    return gan.generator(gan.normal(stream, batch, 6), batch.condition)


@pytest.mark.parametrize("loss", [NonSaturating(), Hinge(), Relativistic(), Wasserstein()])
def test_plain_losses(loss, batch):
    gan = at_step(make_gan(loss))
    real, fake = gan.discriminator(batch.image, batch.condition), fakes(gan, batch, "discriminator")
    value, _ = gan.discriminator_loss(batch)
    expected = loss.discriminator(real, gan.discriminator(fake, batch.condition)).mean()
    torch.testing.assert_close(value, expected)
    value, _ = gan.generator_loss(batch)
    fake_logits = gan.discriminator(fakes(gan, batch, "generator"), batch.condition)
    torch.testing.assert_close(value, loss.generator(fake_logits, real).mean())


@pytest.mark.parametrize("loss", [NonSaturating(), Hinge(), Relativistic(), Wasserstein()])
def test_logits_of_several_heads_are_averaged_behind_the_loss(loss, batch):
    """Three heads that say the same are one head, and of two that differ each has its own loss."""
    options = {"matching": 2.0, "r1": 0.3, "r2": 0.7, "gradient_penalty": 1.0}
    one, three, two = (at_step(make_gan(loss, **options)) for _ in range(3))
    read = one.discriminator.logits
    three.discriminator.read = three.discriminator.logits = lambda *args: read(*args)[:, None, None].expand(-1, 3, 1)
    for phase in ("discriminator_loss", "generator_loss"):
        torch.testing.assert_close(getattr(three, phase)(batch)[0], getattr(one, phase)(batch)[0])
    two.matching = two.r1 = two.r2 = two.gradient_penalty = 0
    two.discriminator.read = two.discriminator.logits = lambda *args: torch.stack([read(*args), 5 * read(*args) + 1], 1)
    real, fake = (one.discriminator(x, batch.condition) for x in (batch.image, fakes(one, batch, "discriminator")))
    expected = (loss.discriminator(real, fake) + loss.discriminator(5 * real + 1, 5 * fake + 1)).mean() / 2
    torch.testing.assert_close(two.discriminator_loss(batch)[0], expected)


def test_mismatch_compares_with_the_neighbours_caption(batch):
    gan = at_step(make_gan(matching=2.0))
    batch.caption[1] = batch.caption[0]  # the first pair says the same: nothing to tell apart
    swapped = [1, 0, 3, 2, 5, 4, 7, 6]
    right = gan.discriminator(batch.image, batch.condition)
    wrong = gan.discriminator(batch.image, batch.condition.rows(swapped))
    differs = torch.tensor([0.0, 0, 1, 1, 1, 1, 1, 1])
    with_term, logs = gan.discriminator_loss(batch)
    torch.testing.assert_close(logs["discriminator/mismatch"], (differs * softplus(wrong - right)).mean())
    gan.matching = 0.0
    torch.testing.assert_close(with_term - gan.discriminator_loss(batch)[0], 2 * logs["discriminator/mismatch"])


def test_mismatch_asks_the_head_that_reads_captions(batch):
    torch.manual_seed(0)
    judge = dcgan.Discriminator(16, batch.condition.pooled.shape[1], nn.Identity(), 8, 16, 8, patches=1)
    features = judge.features(batch.image)
    logits = judge.logits(features, batch.condition)
    judge.patches = nn.ModuleList([Silent()])
    other = batch.condition.rows(batch.neighbour())
    differs = softplus(judge.matched(features, other) - logits[:, 0, 0])
    assert logits.dim() == 3 and differs.std() > 0
    torch.testing.assert_close(mismatch(judge, batch, features, logits), differs)


class Silent(nn.Module):
    def forward(self, x):
        raise AssertionError("places are the same with any caption")


def test_r1_and_r2_are_gradients_at_their_images(batch):
    gan = at_step(make_gan(r1=0.3, r2=0.7))
    value, logs = gan.discriminator_loss(batch)

    def norm2(image):
        image = image.detach().requires_grad_()
        (grad,) = torch.autograd.grad(gan.discriminator(image, batch.condition).sum(), image)
        return grad.square().flatten(1).sum(1).mean()

    r1, r2 = norm2(batch.image), norm2(fakes(gan, batch, "discriminator"))
    torch.testing.assert_close(logs["discriminator/r1"], r1)
    torch.testing.assert_close(logs["discriminator/r2"], r2)
    gan.r1 = gan.r2 = 0.0
    torch.testing.assert_close(value - gan.discriminator_loss(batch)[0], 0.15 * r1 + 0.35 * r2)


def test_penalties_are_lazy_and_rescaled(batch):
    gan = at_step(make_gan(r1=0.3, penalty_interval=4), step=4)
    due, logs = gan.discriminator_loss(batch)
    at_step(gan, step=5)
    not_due, other_logs = gan.discriminator_loss(batch)
    assert "discriminator/r1" not in other_logs
    torch.testing.assert_close(due - not_due, 4 * 0.15 * logs["discriminator/r1"])


def test_finite_difference_and_gradient_penalty_are_used(batch):
    gan = at_step(make_gan(r1=1.0, finite_difference=1e-2))
    exact = at_step(make_gan(r1=1.0))
    many = [gan.discriminator_loss(random_batch(start=8 * i).as_float())[1]["discriminator/r1"] for i in range(60)]
    true = [exact.discriminator_loss(random_batch(start=8 * i).as_float())[1]["discriminator/r1"] for i in range(60)]
    assert torch.stack(many).mean().item() == pytest.approx(torch.stack(true).mean().item(), rel=0.25)
    gan = at_step(make_gan(Wasserstein(), gradient_penalty=10.0))
    value, logs = gan.discriminator_loss(batch)
    plain = logs["discriminator/fake_logits"] - logs["discriminator/real_logits"]
    torch.testing.assert_close(value, plain + 10 * logs["discriminator/gradient_penalty"])


def test_generator_and_discriminator_draw_different_noise(batch):
    gan = make_gan()
    assert not torch.equal(fakes(gan, batch, "generator"), fakes(gan, batch, "discriminator"))


def test_consistency_is_between_an_image_and_its_augmentation(batch):
    gan = at_step(make_gan(Hinge(), augment=DiffAugment(), consistency=3.0))
    plain, _ = at_step(make_gan(Hinge())).discriminator_loss(batch)  # all else sees images as they are
    value, logs = gan.discriminator_loss(batch)
    expected = 0
    for kind, image in (("real", batch.image), ("fake", fakes(gan, batch, "discriminator"))):
        view = gan.augment(image, gan.uniform(f"discriminator/consistency/{kind}", batch, 7))
        one, two = (gan.discriminator(each, batch.condition) for each in (image, view))
        expected = expected + (one - two).square().mean()
    torch.testing.assert_close(logs["discriminator/consistency"], expected)
    torch.testing.assert_close(value, plain + 3 * expected)
    with pytest.raises(UserError, match=r"consistency=1\.0: it is that of an image and its augmentation"):
        make_gan(consistency=1.0)


def test_features_are_matched_with_those_of_the_real_image_of_the_caption(batch):
    gan = at_step(make_gan(feature_matching=2.0))
    plain, _ = at_step(make_gan()).generator_loss(batch)
    value, logs = gan.generator_loss(batch)
    real, fake = (gan.discriminator.features(x) for x in (batch.image, fakes(gan, batch, "generator")))
    expected = ((fake - real).square().flatten(1).sum(1) / real.square().flatten(1).sum(1)).mean()
    torch.testing.assert_close(logs["generator/feature_matching"], expected)
    torch.testing.assert_close(value, plain + 2 * expected)

    batch.caption[::2] = DROPPED  # such an image is of no caption, and so of no picture
    _, logs = gan.generator_loss(batch)
    apart = ((fake - real).square().flatten(1).sum(1) / real.square().flatten(1).sum(1))[1::2].sum() / len(batch)
    torch.testing.assert_close(logs["generator/feature_matching"], apart)


def test_features_of_a_caption_that_pictures_share_are_not_matched(batch):
    gan = at_step(make_gan(feature_matching=1.0))
    of_all = gan.generator_loss(batch)[1]["generator/feature_matching"]
    unshared = torch.arange(len(batch)) < 3
    gan._trainer.datamodule = SimpleNamespace(train=SimpleNamespace(unshared=unshared))
    gan.on_fit_start()
    real, fake = (gan.discriminator.features(x) for x in (batch.image, fakes(gan, batch, "generator")))
    distance = (fake - real).square().flatten(1).sum(1) / real.square().flatten(1).sum(1)
    torch.testing.assert_close(distance.mean(), of_all)
    _, logs = gan.generator_loss(batch)
    torch.testing.assert_close(logs["generator/feature_matching"], distance[:3].sum() / len(batch))


def test_lecam_and_adaptive_augmentation_move_once_a_step(batches):
    """Split into micro-batches they end where the whole batch does, and after a resume as without one."""
    ends = []
    for options in ({}, {"accumulate": 2}):
        gan = make_gan(Hinge(), augment=Adaptive(kimg=0.1), lecam=0.1, **options)
        run(gan, batches)
        ends.append({key: value for key, value in gan.state_dict().items() if key.startswith(("lecam", "augment"))})
    assert set(ends[0]) == {"lecam.averages", "augment.probability", "augment.sureness"}
    assert ends[0]["lecam.averages"].abs().min() > 0
    for key, value in ends[0].items():
        torch.testing.assert_close(ends[1][key], value, atol=1e-5, rtol=1e-4)
