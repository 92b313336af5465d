"""Multi-level guidance: what the discriminator sees of each level, and when it is refused."""

import pytest
import torch
from conftest_objectives import LATENT, RESOLUTION, TEXT, loop_arguments, random_batch, run
from torch import nn

from trainer.config.entry import by_width
from trainer.errors import UserError
from trainer.losses.adversarial import Relativistic
from trainer.losses.regularizers import r1
from trainer.networks import transformer
from trainer.networks.diffaugment import DiffAugment
from trainer.objectives.multilevel import MultiLevelGAN, noised
from trainer.objectives.penalties import differentiable_twice, penalties


def make(levels=2, seen=None, depth=2, **settings):
    torch.manual_seed(0)
    sizes = {"resolution": RESOLUTION, "text_channels": TEXT, "width": 16, "depth": depth, "num_heads": 2}
    generator = transformer.Generator(latent_channels=LATENT, text=nn.Identity(), levels=levels, **sizes)
    discriminator = transformer.Discriminator(text=nn.Identity(), levels=seen or levels, **sizes)
    loop = loop_arguments(("generator", "discriminator"))
    return MultiLevelGAN(generator, discriminator, Relativistic(), **settings, **loop)


def test_noise_of_a_level_has_its_variance_and_only_adds_to_that_of_the_next():
    times, normals = [0.875, 0.5, 0.0], torch.randn(20000, 3, 1, 1, 1)
    image = torch.ones(20000, 1, 1, 1, 1)
    seen = noised(image, times, normals)[:, :, 0, 0, 0]
    torch.testing.assert_close(seen.mean(0), 1 - torch.tensor(times), atol=0.02, rtol=0)
    torch.testing.assert_close(seen.std(0), torch.tensor(times), atol=0.02, rtol=0)
    assert torch.equal(seen[:, 2], torch.ones(20000))
    more = seen[:, 0] - 0.125 / 0.5 * seen[:, 1]  # what the first level has beside the second one, scaled
    assert torch.corrcoef(torch.stack([more, seen[:, 1]]))[0, 1].abs() < 0.03


def test_the_levels_are_noised_as_in_the_paper():
    assert make(levels=4, depth=4).times == pytest.approx([1 - 0.125 ** (1 - i / 3) for i in range(4)])


def test_real_levels_are_one_image_and_all_are_augmented_alike():
    gan, batch = make(augment=DiffAugment(), information=1.0), random_batch().as_float()  # 1.0: no noise
    seen = gan.perceived(batch.image, batch, "discriminator/real")
    assert seen.shape == (8, 6, RESOLUTION, RESOLUTION)
    assert torch.equal(seen[:, :3], seen[:, 3:])
    assert torch.equal(seen[:, :3], gan.augmented(batch.image, batch, "discriminator/real"))
    fake = gan.perceived(batch.image.repeat(1, 2, 1, 1), batch, "discriminator/real")
    torch.testing.assert_close(fake, seen)


@pytest.mark.parametrize("finite_difference", [0.0, 1e-3])
def test_every_parameter_is_trained_with_penalties_exact_or_not(finite_difference):
    gan = make(r1=0.1, r2=0.1, finite_difference=finite_difference, matching=1.0)
    before = {name: weight.clone() for name, weight in gan.named_parameters()}
    run(gan, [random_batch(8, 8 * i) for i in range(2)])
    cancels = {"discriminator.unconditional.bias"}  # in every difference of logits: rounding is left, or nothing
    same = {name for name, weight in gan.named_parameters() if torch.equal(weight, before[name])}
    assert not same - cancels
    assert gan.logs["discriminator/r1"] >= 0


def test_the_finite_difference_is_near_the_exact_penalty():
    """Over many draws: E (D(x) - D(x + sigma n))^2 / sigma^2 -> |grad D|^2."""
    gan, batch = make(r1=2.0, finite_difference=1e-2), random_batch(1).as_float()[[0] * 500]
    batch.position = torch.arange(500)
    seen = gan.perceived(batch.image, batch, "x")[:1].expand(500, -1, -1, -1)

    def judged(x):
        return gan.discriminator.logits(gan.discriminator.features(x), batch.condition)

    one = seen[:1].clone().requires_grad_()
    with differentiable_twice("cpu"):
        exact = r1(gan.discriminator(one, batch.condition.rows([0])), one)
    with torch.no_grad():
        found, _ = penalties(gan, batch, seen, seen, judged(seen), judged(seen))
    assert found.mean() == pytest.approx(exact.item(), rel=0.2)


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match=r"generator.levels=2, discriminator.levels=1"):
        make(2, 1)
    with pytest.raises(UserError, match="information=0"):
        make(information=0)
    with pytest.raises(UserError, match="consistency"):
        make(consistency=1.0, augment=DiffAugment())


def test_the_learning_rate_goes_as_one_by_the_width():
    assert by_width(1e-4, 768) == 1e-4
    assert by_width(1e-4, 192) == pytest.approx(4e-4)
    with pytest.raises(UserError, match="width=0"):
        by_width(1e-4, 0)
