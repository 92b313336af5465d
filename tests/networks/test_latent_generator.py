"""Latents of a tokenizer: what they are of each bottleneck, how they are standardised, and a generator of them."""

from functools import partial

import pytest
import torch
from torch import nn

from tests.networks.test_tokenizer import BOTTLENECKS, TEXT, make, make_condition
from trainer.networks.latent_generator import LatentGenerator
from trainer.networks.quantizers import FSQ, VQ
from trainer.networks.transformer import Generator

NAMES = ["fsq", "vq", "gaussian"]
SIZES = {"latent_channels": 6, "text_channels": TEXT, "width": 16, "depth": 2, "num_heads": 2, "patch": 1, "levels": 2}


def make_generator(bottleneck=BOTTLENECKS[0]):
    tokenizer = make(bottleneck)
    return LatentGenerator(partial(Generator, text=nn.Identity(), limit=None, **SIZES), tokenizer)


def test_fsq_latents_lie_between_the_levels_that_are_nearest():
    fsq, z = FSQ([8, 5, 4, 3]), 2 * torch.randn(16, 4, 3, 3)
    latents = fsq.latents(z)
    assert torch.equal(fsq.nearest(latents), fsq(z, z).latent)
    assert ((latents - fsq.nearest(latents)).abs() * fsq.scale).max() <= 0.5
    beyond = fsq.nearest(torch.full((1, 4, 1, 1), 9.0)), fsq.nearest(torch.full((1, 4, 1, 1), -9.0))
    torch.testing.assert_close(beyond[0].flatten(), torch.tensor([3 / 4, 1, 1 / 2, 1]))
    assert torch.equal(beyond[1].flatten(), torch.full((4,), -1.0))


def test_vq_takes_the_code_nearest_to_latents():
    vq, z = VQ(16, 3), torch.randn(4, 3, 2, 5)
    assert torch.equal(vq.latents(z), z)
    distances = (z.movedim(1, -1)[..., None, :] - vq.codebook).square().sum(-1)
    assert torch.equal(vq.nearest(z), vq.codebook[distances.argmin(-1)].movedim(-1, 1))


@pytest.mark.parametrize("bottleneck", BOTTLENECKS, ids=NAMES)
def test_images_of_latents_are_reconstructions(bottleneck):
    tokenizer, condition = make(bottleneck), make_condition(3)
    image = torch.rand(3, 3, 16, 16) * 2 - 1
    back, *_ = tokenizer(image, condition, torch.zeros(3, tokenizer.num_draws(image)))
    torch.testing.assert_close(tokenizer.images(tokenizer.latents(image), condition), back)


@pytest.mark.parametrize("bottleneck", BOTTLENECKS, ids=NAMES)
def test_each_channel_has_zero_mean_and_unit_variance_over_images_and_places(bottleneck):
    generator = make_generator(bottleneck)
    images = [torch.rand(count, 3, 16, 16) * 2 - 1 for count in (20, 5)]
    generator.measure(images)
    latents = torch.cat([generator.tokenizer.latents(image) for image in images])
    channel = latents[:, 1]
    mean = channel.sum() / channel.numel()
    deviation = ((channel - mean).square().sum() / channel.numel()).sqrt()
    seen = generator.standardised(latents)
    torch.testing.assert_close(seen[:, 1], (channel - mean) / deviation)
    torch.testing.assert_close(seen.mean((0, 2, 3)), torch.zeros(seen.shape[1]), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.std((0, 2, 3), correction=0), torch.ones(seen.shape[1]))
    assert {"mean", "std"} <= generator.state_dict().keys()


def test_what_is_made_is_brought_back_and_decoded():
    generator, condition, latent = make_generator().eval(), make_condition(3), torch.randn(3, 6)
    generator.measure([torch.rand(9, 3, 16, 16) * 2 - 1])
    made = generator.latents(latent, condition)
    assert made.shape == (3, 3, 4, 4)
    expected = generator.tokenizer.images(made * generator.std + generator.mean, condition)
    assert torch.equal(generator(latent, condition), expected)
    generator.latents.images[-1].pixels.bias.data += 5
    assert generator.latents(latent, condition).max() > 2, "latents have no bounds"


def test_the_tokenizer_is_frozen_and_in_eval_mode():
    generator = make_generator().train()
    assert generator.latents.training and not generator.tokenizer.training
    for name, parameter in generator.named_parameters():
        assert parameter.requires_grad == name.startswith("latents.")
