"""The projected discriminator: what is frozen, what trains, and its parts against independent formulas."""

from functools import partial

import pytest
import torch
from torch import nn

from trainer.backbones import effnet_lite
from trainer.networks.projected import Discriminator, SpectralConv2d, sized, spectral_norm

from .test_architectures import TEXT, make_condition


def make(pixels=8):
    torch.manual_seed(0)
    return Discriminator(32, TEXT, nn.Identity(), effnet_lite.load, mixed_channels=8, head_channels=16, pixels=pixels)


def test_logits_are_of_four_scales_and_the_pixels():
    image = torch.rand(3, 3, 32, 32) * 2 - 1
    assert make()(image, make_condition(3)).shape == (3, 5)
    assert make(pixels=0)(image, make_condition(3)).shape == (3, 4)


def test_the_backbone_is_neither_trained_nor_saved_nor_changed():
    network = make()
    image = (torch.rand(2, 3, 32, 32) * 2 - 1).requires_grad_()
    network.train()(image, make_condition(2)).sum().backward()
    backbone = network.frozen[0]
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not any(module.training for module in backbone.modules())
    assert sum(p.numel() for p in backbone.parameters()) > 3_000_000 > 20 * sum(p.numel() for p in network.parameters())
    assert network.state_dict().keys() == make().state_dict().keys(), "the same before and after it is loaded"
    assert image.grad.abs().amax((1, 2, 3)).gt(0).all(), "a generator learns through it"


def test_every_parameter_gets_a_gradient_and_samples_are_independent():
    network, condition = make(), make_condition(4)
    image = (torch.rand(4, 3, 32, 32) * 2 - 1).requires_grad_()
    condition.tokens.requires_grad_()
    logits = network(image, condition)
    logits[1].sum().backward()
    for gradient in (image.grad, condition.tokens.grad):
        assert (gradient.flatten(1).abs().sum(1) > 0).tolist() == [False, True, False, False]
    assert not [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


def test_penalties_end_at_the_frozen_features():
    network, condition = make(), make_condition(2)
    seen = network.perceive(torch.rand(2, 3, 32, 32) * 2 - 1).requires_grad_()
    logits = network.logits(network.features(seen), condition)
    (slope,) = torch.autograd.grad(logits.sum(), seen, create_graph=True)
    slope.square().sum().backward()
    assert network.trunks[0].last.weight.grad.abs().sum() > 0


def test_maps_are_mixed_from_coarse_to_fine():
    """By the formula, with maps of a backbone that is none, of sizes as they come."""
    maps = [torch.randn(2, 3 + level, size, size) for level, size in enumerate((20, 10, 5, 2))]
    network = make(pixels=0)
    network.load = lambda: nn.Identity()
    network.frozen = [type("Seen", (), {"see": lambda self, image: maps})(), {}]
    rows = network.perceive(torch.zeros(2, 3, 32, 32))
    weights = network.frozen[1]
    below = 0
    for level, size in ((3, 4), (2, 4), (1, 8), (0, 16)):
        across = torch.einsum("oi,nihw->nohw", weights[f"channels/{level}"][:, :, 0, 0], maps[level])
        joined = sized(across, size) + (below if level == 3 else sized(below, size))
        below = nn.functional.conv2d(joined, weights[f"scales/{level}"], padding=1)
        start = {0: 0, 1: 2048, 2: 2560, 3: 2688}[level]
        torch.testing.assert_close(rows[:, start : start + 8 * size**2], below.flatten(1))
    for name, weight in weights.items():
        assert weight.square().mean().sqrt() == pytest.approx(weight[0].numel() ** -0.5, rel=0.3), name


def test_projections_are_the_same_in_every_process():
    one, two = make(), make()
    image = torch.rand(2, 3, 32, 32) * 2 - 1
    torch.manual_seed(5)
    first = one.perceive(image)
    torch.manual_seed(6)
    assert torch.equal(first, two.perceive(image))


@pytest.mark.parametrize("shape", [(16, 40), (64, 1024), (5, 3), (1, 7)])
def test_the_spectral_norm_is_the_largest_singular_value(shape):
    torch.manual_seed(0)
    weight = torch.randn(shape).requires_grad_()
    largest = torch.linalg.svdvals(weight.detach())[0]
    found = spectral_norm(weight)
    torch.testing.assert_close(found, largest, rtol=1e-2, atol=0)
    assert found <= largest * (1 + 1e-6), "never more than it is"
    (slope,) = torch.autograd.grad(found, weight)
    torch.testing.assert_close((slope * weight).sum(), found)  # homogeneous of degree 1
    layer = SpectralConv2d(3, 8, 4)
    x = torch.randn(1, 3, 4, 4)
    expected = (layer.weight / spectral_norm(layer.weight.flatten(1))).flatten(1) @ x.flatten() + layer.bias
    torch.testing.assert_close(layer(x).flatten(), expected)


def test_it_is_loaded_when_the_first_image_is_judged():
    def never():
        raise AssertionError("a run that is only sampled from needs no backbone")

    Discriminator(32, TEXT, nn.Identity(), partial(never))


def test_a_run_of_bf16_sees_the_same_as_one_of_float32_on_a_cpu():
    network, image = make(), torch.rand(2, 3, 32, 32) * 2 - 1
    network.load = partial(effnet_lite.load, resolution=128)  # maps that are brought down, with antialiasing
    with torch.autocast("cpu", torch.bfloat16):
        seen = network.perceive(image)
    assert seen.dtype == torch.float32
    assert torch.equal(seen, network.perceive(image))
