"""Counter-based noise: the right distribution, and a pure function of seed, stream and position."""

import torch

from trainer import noise


def test_moments():
    x = noise.normal(0, "a", torch.arange(20000), 16).double()
    assert abs(x.mean()) < 0.01
    assert abs(x.var() - 1) < 0.01
    assert abs((x**4).mean() - 3) < 0.05
    u = noise.uniform(0, "a", torch.arange(20000), 16)
    assert 0 <= u.min() and u.max() < 1
    assert abs(u.mean() - 0.5) < 0.005


def test_columns_rows_seeds_and_streams_are_independent():
    x = noise.normal(0, "a", torch.arange(20000), 8)
    correlation = torch.corrcoef(torch.cat([x, noise.normal(1, "a", torch.arange(20000), 8),
                                            noise.normal(0, "b", torch.arange(20000), 8), x.roll(1, 0)], 1).T)
    assert (correlation - torch.eye(32)).abs().max() < 0.04


def test_pure_function_of_position():
    whole = noise.normal(3, "a", torch.arange(100), 5)
    order = torch.tensor([7, 99, 0])
    assert torch.equal(noise.normal(3, "a", order, 5), whole[order])
    far = torch.tensor([2**40, 2**62])
    assert noise.normal(3, "a", far, 5).isfinite().all()
