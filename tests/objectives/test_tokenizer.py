"""The tokenizer's loss, what it reconstructs, and its statistics over a training."""

import pytest
import torch
from conftest_objectives import make_tokenizer, random_batch, run

from trainer.errors import UserError
from trainer.networks.quantizers import VQ, Gaussian


def test_loss_is_distortion_and_cost():
    objective, batch = make_tokenizer(VQ(16, 4, commitment=2.0)), random_batch().as_float()
    loss, logs = objective.autoencoder_loss(batch)
    back, passed, features = objective.autoencoder(batch.image, batch.condition, torch.zeros(8, 2))
    nearest = objective.autoencoder.bottleneck.decode(passed.codes)
    distortion, commitment = (back - batch.image).square().mean(), 2 * (features - nearest).square().mean()
    torch.testing.assert_close(loss, distortion + commitment)
    torch.testing.assert_close(logs["autoencoder/cost"], commitment)
    assert torch.equal(objective.autoencoder.bottleneck.seen, torch.bincount(passed.codes.flatten(), minlength=16))


def test_reconstructions_of_gaussians_are_of_their_means():
    objective, batch = make_tokenizer(Gaussian(3)), random_batch().as_float()
    autoencoder = objective.autoencoder
    mean = autoencoder.narrow(autoencoder.encoder(batch.image))[:, :3]
    expected = autoencoder.decoder(autoencoder.widen(mean), batch.condition)
    torch.testing.assert_close(objective.reconstruct(batch.image, batch.condition), expected)


def test_it_draws_nothing():
    with pytest.raises(UserError, match="draws no images"):
        make_tokenizer().sample(torch.zeros(1, 0), random_batch(1).condition)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_closes_the_statistics(accumulate):
    objective = make_tokenizer(VQ(16, 4), accumulate=accumulate)
    run(objective, [random_batch(8, 8 * i) for i in range(6)], max_steps=6)
    bottleneck = objective.autoencoder.bottleneck
    assert not bottleneck.seen.any()
    assert bottleneck.offers.sum() * 8 * 16 == pytest.approx(8)  # one an image, over the tokens of the step
    assert {"autoencoder/codes_used", "autoencoder/perplexity"} < objective.logs.keys()
    assert 0 < objective.logs["autoencoder/codes_used"] <= 1
    assert 1 <= objective.logs["autoencoder/perplexity"] <= 16
