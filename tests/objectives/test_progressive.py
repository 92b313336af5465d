"""What grows is a function of the images seen; fades mix what two sizes say; a resume within one changes no bit."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from conftest_objectives import LATENT, make_gan, make_progressive, random_batch, run

from trainer.errors import UserError
from trainer.networks.progressive import Discriminator, Generator
from trainer.objectives.progressive import Progressive
from trainer.runs.drawing import draws, require_grown


def test_level_follows_the_images():
    gan = make_progressive(phase_kimg=0.04)
    for images, level in ((0, 1), (40, 1), (50, 1.25), (60, 1.5), (79, 1.975), (80, 2), (1000, 2)):
        gan.images_seen = images
        assert gan.generator.level == gan.discriminator.features.level == pytest.approx(level)
    small = make_progressive(start_size=4, phase_kimg=0.01)
    assert [small.level(images) for images in (0, 10, 15, 20, 30, 35, 40)] == pytest.approx([0, 0, 0.5, 1, 1, 1.5, 2])


@pytest.mark.parametrize(("images", "size"), [(0, 8), (40, 8), (50, 16), (1000, 16)])
def test_where_another_training_goes_on(images, size):
    gan = make_progressive(phase_kimg=0.04)
    gan.images_seen = images
    assert gan.grown == {"start_size": size}
    assert make_progressive(phase_kimg=0.04, **gan.grown).level(0) == math.ceil(gan.generator.level)


def images_of(gan, batch, level):
    gan.generator.level = gan.discriminator.features.level = level
    image = gan.generator(gan.normal("generator", batch, LATENT), batch.condition)
    return image, gan.discriminator.features(batch.image)


def test_a_fade_mixes_two_sizes():
    """alpha times the new layers and 1 - alpha times the old ones, in both networks (fig. 2)."""
    gan, batch = make_progressive(), random_batch(4).as_float()
    (old, _), (new, _), (between, features) = (images_of(gan, batch, level) for level in (1.0, 2.0, 1.3))
    assert old.shape == new.shape == (4, 3, 16, 16)
    squares = F.interpolate(F.avg_pool2d(old, 2), scale_factor=2)
    torch.testing.assert_close(old, squares, msg="8 pixels, enlarged")
    torch.testing.assert_close(between, 0.7 * old + 0.3 * new)
    trunk = gan.discriminator.features
    top = trunk.blocks[1](F.leaky_relu(trunk.images[2](batch.image), 0.2))
    half = F.leaky_relu(trunk.images[1](F.avg_pool2d(batch.image, 2)), 0.2)
    x = trunk.blocks[0](0.3 * top + 0.7 * half)
    torch.testing.assert_close(features, F.leaky_relu(trunk.last(trunk.deviation(x)), 0.2))


@pytest.mark.parametrize(
    ("level", "gone"), [(1.0, "blocks.1 images.0 images.2"), (1.5, "images.0"), (2.0, "images.0 images.1")]
)
def test_what_is_there_gets_a_gradient(level, gone):
    gan, batch = make_progressive(), random_batch(4).as_float()
    image, _ = images_of(gan, batch, level)
    gan.discriminator(image, batch.condition).sum().backward()
    for network in (gan.generator, gan.discriminator.features):
        dead = {name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()}
        assert {".".join(name.split(".")[:2]) for name in dead} == set(gone.split())


def test_a_resume_within_a_fade_changes_no_bit(tmp_path):
    batches = [random_batch(start=8 * i) for i in range(12)]
    make = partial(make_progressive, matching=1.0, r1=0.1)
    whole, first, resumed = make(), make(), make()
    before = {key: value.clone() for key, value in whole.generator.named_parameters()}
    run(first, batches[:7]).save_checkpoint(tmp_path / "fade.ckpt")
    assert first.generator.level == pytest.approx(1.4)
    run(whole, batches)
    run(resumed, batches[7:], ckpt_path=tmp_path / "fade.ckpt", max_epochs=2)
    assert whole.generator.level == resumed.generator.level == 2
    assert not torch.equal(whole.generator.blocks[1].conv1.weight, before["blocks.1.conv1.weight"])
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


def test_a_generator_alone_knows_its_level():
    gan = make_progressive()
    gan.config = {"objective": {"generator": {"latent_channels": LATENT}}}
    gan.images_seen = 60
    assert draws(gan)["generator"] == {"latent_channels": LATENT, "level": 1.5}
    gan.images_seen = 100
    assert draws(gan)["generator"] == {"latent_channels": LATENT}


def test_a_run_that_grows_starts_no_other_and_its_export_does():
    gan = make_progressive()
    gan.config = {"objective": {"generator": {"latent_channels": LATENT}}}
    gan.images_seen = 60
    export = draws(gan)["generator"]  # what an export has as its configuration, and a new run takes from there
    require_grown("teacher=export", export, export)
    with pytest.raises(UserError, match=r"teacher=run has not grown to its end: let it finish, or give its export"):
        require_grown("teacher=run", export, gan.config["objective"]["generator"])
    gan.images_seen = 100
    require_grown("teacher=run", draws(gan)["generator"], gan.config["objective"]["generator"])


def test_mistakes_are_told():
    with pytest.raises(
        UserError, match=r"start_size=12, phase_kimg=0.04: expected one of 4, 8, 16 and a number above 0"
    ):
        make_progressive(start_size=12)
    with pytest.raises(UserError, match=r"generator.level=3: expected 0 to 2 at 16 pixels"):
        Generator(16, LATENT, 12, torch.nn.Identity(), level=3)
    with pytest.raises(UserError, match=r"group=0: expected at least 1"):
        Discriminator(16, 12, torch.nn.Identity(), group=0)
    gan = make_gan()
    with pytest.raises(UserError, match=r"expected both of progressive, which grow"):
        Progressive(gan.generator, gan.discriminator, 1.0, loss=gan.loss, optimizer={}, schedule=gan.schedule, seed=0)
