"""The VAE's loss against the ELBO, and its samples."""

import torch
from conftest_objectives import LATENT, make_vae, random_batch
from torch.distributions import Normal, kl_divergence


def test_loss_is_the_negative_elbo_per_value():
    vae, batch = make_vae(), random_batch().as_float()
    loss, logs = vae.autoencoder_loss(batch)
    mean, log_variance = vae.autoencoder.encoder(batch.image, batch.condition)
    posterior = Normal(mean, (log_variance / 2).exp())
    latent = mean + posterior.scale * vae.normal("autoencoder", batch, LATENT)
    error = batch.image - vae.autoencoder.decoder(latent, batch.condition)
    sigma = error.square().flatten(1).mean(1).sqrt().view(-1, 1, 1, 1)
    nll = -Normal(0.0, sigma).log_prob(error).flatten(1).sum(1)
    rate = kl_divergence(posterior, Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(loss, (nll + rate).mean() / (3 * 16 * 16))
    torch.testing.assert_close(logs["autoencoder/rate"], rate.mean())


def test_kl_warms_up_in_images():
    vae, batch = make_vae(kl_weight=2.0, warmup_kimg=1.0), random_batch().as_float()
    for images, factor in ((0, 0.0), (250, 0.25), (5000, 1.0)):
        vae.images_seen = images
        loss, logs = vae.autoencoder_loss(batch)
        weighed = factor * 2.0 * logs["autoencoder/rate"] / (3 * 16 * 16)
        torch.testing.assert_close(loss, logs["autoencoder/distortion"] + weighed)


def test_reconstructions_are_of_the_posterior_mean():
    vae, batch = make_vae(), random_batch().as_float()
    mean, _ = vae.autoencoder.encoder(batch.image, batch.condition)
    expected = vae.autoencoder.decoder(mean, batch.condition)
    assert expected.shape == batch.image.shape
    torch.testing.assert_close(vae.reconstruct(batch.image, batch.condition), expected)


def test_samples_come_from_the_decoder():
    vae, batch = make_vae(), random_batch()
    latent = torch.randn(8, LATENT)
    torch.testing.assert_close(vae.sample(latent, batch.condition), vae.autoencoder.decoder(latent, batch.condition))
