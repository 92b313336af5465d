"""Patches at several scales: as many logits of each, captions read at each place, no sample that sees another."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.networks.test_unet import TEXT, make_condition
from trainer.errors import UserError
from trainer.networks.multiscale import Discriminator


def make(**changes):
    torch.manual_seed(0)
    sizes = {"image_channels": 6, "num_scales": 2, "num_downs": 2, "base_channels": 4, "max_channels": 8}
    return Discriminator(32, TEXT, nn.Identity(), **(sizes | changes))


def test_each_scale_counts_alike_and_sees_the_image_smaller():
    network, image, condition = make(), torch.randn(3, 6, 32, 32), make_condition(3)
    logits = network(image, condition)
    assert logits.shape == (3, 2, 64)
    (fine, coarse), (head, other) = network.trunks, network.heads
    whole, small = head(fine(image)[-1], condition), other(coarse(F.avg_pool2d(image, 2))[-1], condition)
    torch.testing.assert_close(logits[:, 0], whole)
    torch.testing.assert_close(logits.flatten(1).mean(1), (whole.mean(1) + small.mean(1)) / 2)
    assert [tuple(each.shape[1:]) for each in network.features(image)] == [
        (8, 16, 16), (8, 8, 8), (8, 8, 8), (8, 8, 8), (8, 4, 4), (8, 4, 4)
    ]  # fmt: skip


def test_a_logit_is_of_its_patch_and_caption():
    """Of the first scale 22 pixels wide: the others of the image do not touch it."""
    network, condition = make(num_scales=1), make_condition(1)
    image = torch.randn(1, 6, 32, 32, requires_grad=True)
    network(image, condition)[0, 0, 0].backward()
    touched = image.grad.abs().sum((0, 1)) > 0
    assert touched[:11, :11].all() and not touched[16:].any() and not touched[:, 16:].any()
    image = image.detach()
    other = condition._replace(pooled=condition.pooled.flip(1))
    assert ((network(image, condition) - network(image, other)).abs() > 1e-4).all()


def test_every_parameter_learns_and_no_sample_sees_another():
    network, condition = make(), make_condition(4)
    image = torch.randn(4, 6, 32, 32, requires_grad=True)
    network(image, condition)[1].square().sum().backward()
    assert (image.grad.flatten(1).abs().sum(1) > 0).tolist() == [False, True, False, False]
    assert not [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


@pytest.mark.parametrize("changes", [{"num_scales": 0}, {"num_downs": 0}, {"num_scales": 3}])
def test_maps_that_would_be_too_small_are_refused(changes):
    with pytest.raises(UserError, match="expected at least 1 of each, and a sum of at most 4"):
        make(**changes)
