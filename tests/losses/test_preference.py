"""Bradley-Terry: the minimum of the written loss, and what it says of pairs that it has not seen."""

import torch

from trainer.losses.preference import fit, held_out_accuracy, negative_log_likelihood


def pairs(count=400, noise=0.0):
    """Differences (count, 6) that a known weight orders, `noise` of them the other way round."""
    draw = torch.Generator().manual_seed(0)
    found = torch.randn(count, 6, generator=draw, dtype=torch.float64)
    true = torch.tensor([3.0, -2, 0, 0, 0, 0], dtype=torch.float64)
    sign = (found @ true).sign() * torch.where(torch.rand(count, generator=draw) < noise, -1, 1)
    return found * sign[:, None], true


def test_the_loss_is_as_written():
    differences, weight = pairs()
    expected = torch.log1p(torch.exp(-(differences * weight).sum(1)))
    torch.testing.assert_close(negative_log_likelihood(weight, differences), expected)


def test_the_weights_are_where_the_slope_is_zero():
    differences, _ = pairs(noise=0.1)
    for strength in (1e-3, 0.1):
        weight = fit(differences, strength).requires_grad_()
        loss = negative_log_likelihood(weight, differences).mean() + strength / 2 * weight.square().sum()
        (slope,) = torch.autograd.grad(loss, weight)
        assert slope.abs().max() < 1e-8


def test_one_pair_that_cannot_be_lost_has_the_closed_form():
    """Of one difference of 1: strength w = sigmoid(-w)."""
    weight = fit(torch.ones(1, 1, dtype=torch.float64), 0.2)
    torch.testing.assert_close(0.2 * weight, torch.sigmoid(-weight))


def test_pairs_that_nothing_was_fitted_to():
    differences, true = pairs()
    weight = fit(differences, 0.01)
    assert torch.nn.functional.cosine_similarity(weight, true, dim=0) > 0.98
    assert held_out_accuracy(differences, 0.01) > 0.97
    assert 0.4 < held_out_accuracy(pairs(noise=0.5)[0], 0.01) < 0.6
