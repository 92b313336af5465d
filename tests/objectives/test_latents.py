"""A GAN in latents: what the players see, a tokenizer that stays as it is, and one seed as one image."""

import pytest
import torch
from conftest_objectives import RESOLUTION, features_of, make_latent_gan, random_batch, run

from trainer.errors import UserError
from trainer.networks.diffaugment import DiffAugment
from trainer.networks.quantizers import FSQ, VQ, Gaussian
from trainer.objectives.multilevel import noised
from trainer.sampling.sampler import Sampler

NO_MATTER = "unconditional.bias"  # of the discriminator: in differences of logits it cancels but for rounding
BOTTLENECKS = {"fsq": lambda: FSQ([5, 4, 3]), "vq": lambda: VQ(16, 4), "gaussian": lambda: Gaussian(2)}


def measured(**options):
    gan = make_latent_gan(**options)
    gan.generator.measure([random_batch(32).as_float().image])
    return gan


@pytest.mark.parametrize("bottleneck", BOTTLENECKS.values(), ids=BOTTLENECKS)
def test_both_players_train_and_the_tokenizer_never_moves(bottleneck):
    gan = measured(bottleneck=bottleneck(), r1=0.1, r2=0.1, finite_difference=0.1, matching=1.0)
    before = {key: value.clone() for key, value in gan.state_dict().items()}
    run(gan, [random_batch(8, 8 * i) for i in range(3)], max_steps=3)
    moved = {key for key, value in gan.state_dict().items() if not torch.equal(value, before[key])}
    trained = {key for key in before if key.startswith(("generator.latents.", "discriminator."))}
    assert moved | {f"discriminator.{NO_MATTER}"} == trained
    assert any(key.startswith("generator.tokenizer.decoder.") for key in before), "sampling would need the earlier run"
    assert {"generator.mean", "generator.std"} <= before.keys()


@pytest.mark.parametrize("exact", [True, False])
def test_every_trainable_parameter_gets_a_gradient(exact):
    gan, seen = measured(r1=0.1, r2=0.1, finite_difference=0.0 if exact else 0.1, matching=1.0), {}
    for name in gan.phases:
        for key, parameter in gan.network(name).named_parameters():
            parameter.register_hook(lambda grad, key=(name, key): seen.update({key: bool(grad.any())}))
    run(gan, [random_batch()])
    expected = {(name, key) for name in gan.phases for key, _ in gan.network(name).named_parameters()}
    assert {key for key, value in seen.items() if value} | {("discriminator", NO_MATTER)} == expected


def test_the_discriminator_sees_standardised_latents_at_all_levels(monkeypatch):
    gan, seen = measured(), []
    features = gan.discriminator.features.forward
    monkeypatch.setattr(gan.discriminator.features, "forward", lambda image: seen.append(image) or features(image))
    batch = random_batch()
    run(gan, [batch])
    batch = batch.as_float()
    latents = (gan.generator.tokenizer.latents(batch.image) - gan.generator.mean) / gan.generator.std
    normals = gan.normal("discriminator/real/levels", batch, 2 * latents[0].numel()).view(8, 2, *latents.shape[1:])
    expected = noised(latents[:, None], gan.times, normals).flatten(1, 2)
    assert expected.shape == (8, 6, 4, 4)
    torch.testing.assert_close(seen[0], expected)
    assert all(each.shape == seen[0].shape for each in seen)


def test_a_seed_is_an_image_at_any_batch_size():
    gan = measured().eval().requires_grad_(False)

    captions, seeds = ["a" * (1 + i % 4) for i in range(21)], range(21)
    images = Sampler(gan, features_of)(captions, seeds)
    assert images.shape == (21, 3, RESOLUTION, RESOLUTION)
    assert len({tuple(image.flatten().tolist()) for image in images}) > 15
    for size in (1, 3, 8):
        assert torch.equal(Sampler(gan, features_of, batch_size=size)(captions, seeds), images)


def test_what_is_of_images_is_refused():
    for settings in ({"augment": DiffAugment()}, {"matcher": "run", "matcher_weight": 1.0}, {"consistency": 1.0}):
        with pytest.raises(UserError, match=f"objective.{next(iter(settings))}: it is of images"):
            make_latent_gan(**settings)
    with pytest.raises(UserError, match="tokenizer=outputs/fsq"):
        make_latent_gan().begin()
