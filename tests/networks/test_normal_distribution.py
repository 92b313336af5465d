"""Phi and its logarithm against those of PyTorch, in both tails, and their slopes against the density."""

import math

import torch

from trainer.networks.normal_distribution import log_cdf


def test_phi_and_its_logarithm_are_those_of_pytorch():
    normals = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
    found, log = log_cdf(normals)
    assert (found - torch.special.ndtr(normals)).abs().max() < 2e-15
    expected = torch.special.log_ndtr(normals)
    assert ((log - expected) / expected).abs().max() < 1e-12


def test_it_is_what_it_is_called():
    found, log = log_cdf(torch.tensor([[0.0, 1.0], [-1.0, 40.0]]))
    assert found.dtype == log.dtype == torch.float64 and found.shape == (2, 2)
    torch.testing.assert_close(found[0], torch.tensor([0.5, (1 + math.erf(math.sqrt(0.5))) / 2], dtype=torch.float64))
    torch.testing.assert_close(log[1, 0].exp(), found[1, 0])
    assert found[1, 1] == 1 and log.isfinite().all()


def test_gumbel_numbers_are_finite_wherever_the_noise_may_be():
    """|x| of a float32 normal by Box-Muller of 32 bits is at most sqrt(-2 log 2^-32) = 6.7."""
    _, log = log_cdf(torch.linspace(-6.7, 6.7, 1001))
    assert (-(-log).log()).isfinite().all()
