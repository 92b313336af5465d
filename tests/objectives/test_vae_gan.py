"""VAE/GAN: who gets the gradient of what (Larsen et al. 2016, algorithm 1), with the equations written out."""

import types

import pytest
import torch
from conftest_objectives import LATENT, make_vae_gan, random_batch, run

from trainer.errors import UserError
from trainer.networks.patch import Discriminator as PatchDiscriminator
from trainer.strategies.single import Single


def log_sigmoid(x):
    return -torch.log1p(torch.exp(-x))


def parts(objective, batch):
    """Both terms of the encoder, the adversarial one of the decoder, and the images decoded."""
    encoder, decoder, discriminator = (
        *(objective.autoencoder.get_submodule(name) for name in ("encoder", "decoder")),
        objective.discriminator,
    )
    mean, log_variance = encoder(batch.image, batch.condition)
    latent = mean + (log_variance / 2).exp() * objective.normal("autoencoder", batch, LATENT)
    back = decoder(latent, batch.condition)
    drawn = decoder(objective.normal("autoencoder/prior", batch, LATENT), batch.condition)
    maps = [discriminator.features(image).flatten(1) for image in (back, batch.image)]
    maps = [(x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + 1e-5).sqrt() for x in maps]
    like = (maps[0] - maps[1]).square().sum(1).mean() / 2
    rate = (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean() / 2
    fooled = sum(-log_sigmoid(discriminator(image, batch.condition)).mean() for image in (back, drawn))
    return like, rate, fooled, back, drawn


def gradients(loss, network):
    return torch.autograd.grad(loss, [*network.parameters()], retain_graph=True)


def assert_gradients(loss, network, expected):
    for found, right in zip(gradients(loss, network), gradients(expected, network), strict=True):
        torch.testing.assert_close(found, right, rtol=1e-3, atol=1e-6)


def test_each_player_gets_the_gradient_of_its_own_loss():
    objective, batch = make_vae_gan(like_weight=0.3, kl_weight=0.7), random_batch().as_float()
    with objective.only("autoencoder"):
        loss, logs = objective.autoencoder_loss(batch)
        like, rate, fooled, back, drawn = parts(objective, batch)
        assert_gradients(loss, objective.autoencoder.encoder, like + 0.7 * rate)
        assert_gradients(loss, objective.autoencoder.decoder, 0.3 * like + fooled)
    torch.testing.assert_close(loss, 0.3 * like + 0.7 * rate + fooled)
    for name, value in {"distortion": like, "rate": rate, "adversarial": fooled}.items():
        torch.testing.assert_close(logs[f"autoencoder/{name}"], value)
    discriminator = objective.discriminator
    with objective.only("discriminator"):
        loss, _ = objective.discriminator_loss(batch)
        real, *fakes = (discriminator(image.detach(), batch.condition) for image in (batch.image, back, drawn))
        expected = -(log_sigmoid(real) + sum((1 - fake.sigmoid()).log() for fake in fakes)).mean()
        torch.testing.assert_close(loss, expected)
        assert_gradients(loss, discriminator, expected)
    assert not objective.kept


def test_the_encoder_does_not_move_for_the_adversarial_terms():
    objective, batch = make_vae_gan(matching=1.0), random_batch().as_float()
    before = gradients(objective.autoencoder_loss(batch)[0], objective.autoencoder.encoder)
    with torch.no_grad():  # another critic with the same features
        for parameter in objective.discriminator.head.parameters():
            parameter.mul_(-3)
    after = gradients(objective.autoencoder_loss(batch)[0], objective.autoencoder.encoder)
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_captions_of_others_are_told_apart():
    objective, batch = make_vae_gan(matching=0.5), random_batch().as_float()
    other = batch.condition.rows([1, 0, 3, 2, 5, 4, 7, 6])
    discriminator = objective.discriminator
    loss, _ = objective.autoencoder_loss(batch)
    like, rate, fooled, *images = parts(objective, batch)
    wrong = [discriminator(image, other) - discriminator(image, batch.condition) for image in (*images, batch.image)]
    back, drawn, real = (-log_sigmoid(-each).mean() for each in wrong)
    torch.testing.assert_close(loss, like + rate + fooled + 0.5 * (back + drawn))
    logs = objective.discriminator_loss(batch)[1]
    torch.testing.assert_close(logs["discriminator/mismatch"], real)


def test_r1_is_the_squared_slope_at_real_images_every_so_many_batches():
    objective, batch = make_vae_gan(r1=0.4, penalty_interval=3), random_batch().as_float()
    image = batch.image.clone().requires_grad_()
    (slope,) = torch.autograd.grad(objective.discriminator(image, batch.condition).sum(), image)
    for step, factor in ((3, 3.0), (4, 0.0)):
        objective._trainer = types.SimpleNamespace(global_step=step, world_size=1, strategy=Single("cpu"))
        objective.autoencoder_loss(batch)
        with objective.until_backward:
            loss, logs = objective.discriminator_loss(batch)
        penalty = factor * 0.4 / 2 * slope.square().sum((1, 2, 3)).mean()
        torch.testing.assert_close(loss, logs["discriminator/loss"] + penalty)


def test_all_parameters_get_a_gradient_and_micro_batches_make_the_same_step():
    weights = []
    for accumulate in (1, 2):
        objective = make_vae_gan(matching=1.0, r1=0.1, accumulate=accumulate)
        before = [parameter.clone() for parameter in objective.parameters()]
        run(objective, [random_batch(8, 8 * i) for i in range(2)], max_steps=2)
        weights.append([*objective.parameters()])
        assert all(not torch.equal(*pair) for pair in zip(weights[-1], before, strict=True))
        assert not objective.kept
    for one, two in zip(*weights, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


def test_a_discriminator_without_features_of_the_image_is_refused():
    with pytest.raises(UserError, match=r"objective.discriminator of trainer.networks.patch: expected .*take dcgan"):
        make_vae_gan(discriminator=PatchDiscriminator(2, 4, 8))
