"""Reconstruction errors and ELBO terms against torch.distributions."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from trainer.losses.reconstruction import charbonnier, gaussian_kl, gaussian_nll, l1, l2


@pytest.fixture
def pair():
    random = torch.Generator().manual_seed(0)
    return torch.randn(4, 3, 5, 5, generator=random), torch.randn(4, 3, 5, 5, generator=random)


def test_means_per_image(pair):
    prediction, target = pair
    error = (prediction - target).reshape(4, -1)
    torch.testing.assert_close(l1(prediction, target), error.abs().sum(1) / 75)
    torch.testing.assert_close(l2(prediction, target), (error**2).sum(1) / 75)
    torch.testing.assert_close(charbonnier(prediction, target, 0.1), torch.hypot(error, torch.tensor(0.1)).sum(1) / 75)


def test_gaussian_nll_is_the_lowest_over_sigma(pair):
    prediction, target = pair
    value = gaussian_nll(prediction, target)

    def nll(sigma):
        return -Normal(prediction, sigma.view(-1, 1, 1, 1)).log_prob(target).flatten(1).mean(1)

    best = l2(prediction, target).sqrt()
    torch.testing.assert_close(value, nll(best))
    assert (value < nll(best * 1.05)).all()
    assert (value < nll(best * 0.95)).all()


def test_gaussian_nll_gradient_is_that_of_the_profile_likelihood(pair):
    prediction, target = pair
    prediction.requires_grad_()
    profile = 0.5 * (math.log(2 * math.pi) + l2(prediction, target).log() + 1)  # sigma solved for, then differentiated
    expected = torch.autograd.grad(profile.sum(), prediction)[0]
    torch.testing.assert_close(torch.autograd.grad(gaussian_nll(prediction, target).sum(), prediction)[0], expected)


def test_gaussian_nll_of_a_perfect_copy_is_bounded(pair):
    copy = pair[0].clone().requires_grad_()
    value = gaussian_nll(copy, pair[0])
    torch.testing.assert_close(value, torch.full((4,), math.log(1 / 255) + 0.5 * math.log(2 * math.pi)))
    assert torch.autograd.grad(value.sum(), copy)[0].eq(0).all()


@pytest.mark.parametrize("shape", [(4, 16), (4, 8, 2, 2)])
def test_kl_against_torch_distributions(shape):
    mean, log_variance = torch.randn(shape), torch.randn(shape)
    exact = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).flatten(1).sum(1)
    torch.testing.assert_close(gaussian_kl(mean, log_variance), exact)
    assert gaussian_kl(torch.zeros(shape), torch.zeros(shape)).eq(0).all()
