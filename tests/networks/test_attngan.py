"""AttnGAN's blocks against the paper's equations; its stages, and a discriminator for each."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.networks.test_architectures import LATENT, TEXT, latents, make_condition
from trainer.batch import Condition
from trainer.errors import UserError
from trainer.networks import attngan

SIZES = {"text_channels": TEXT, "text": nn.Identity(), "base_channels": 8, "max_channels": 16}


def generator(resolution=32, **options):
    torch.manual_seed(0)
    return attngan.Generator(resolution, LATENT, style_channels=16, caption_channels=5, **SIZES, **options)


def discriminator(resolution=32, **options):
    torch.manual_seed(0)
    return attngan.Discriminator(resolution, head_channels=16, **SIZES, **options)


def test_context_is_the_paper_s():
    """Word by word and place by place."""
    torch.manual_seed(0)
    context, condition, x = attngan.WordContext(6, TEXT), make_condition(3), torch.randn(3, 6, 2, 2)
    read = context(x, condition)
    for n in range(3):
        words = [
            context.words(F.layer_norm(condition.tokens[n, i], (TEXT,))) for i in range(6) if condition.mask[n, i]
        ]
        for row in range(2):
            for column in range(2):
                h = x[n, :, row, column]
                weights = torch.stack([h @ word / 6**0.5 for word in words]).softmax(0)
                expected = sum(weight * word for weight, word in zip(weights, words, strict=True))
                torch.testing.assert_close(read[n, :, row, column], expected)


@pytest.mark.parametrize(
    ("resolution", "sizes"), [(16, [16]), (32, [16, 32]), (64, [16, 32, 64]), (128, [32, 64, 128])]
)
def test_stages_double(resolution, sizes):
    network, condition = generator(resolution), make_condition(2)
    latent = latents(network, 2)
    images = network.stages(latent, condition)
    assert [tuple(image.shape) for image in images] == [(2, 3, size, size) for size in sizes]
    assert torch.equal(network(latent, condition), images[-1])
    judge = discriminator(resolution)
    assert judge(attngan.packed(images), condition).shape == (2, len(sizes))
    for image, again in zip(images, attngan.unpacked(attngan.packed(images), network.sizes), strict=True):
        assert torch.equal(image, again)


def test_an_image_alone_is_judged_at_every_size():
    judge, image, condition = discriminator(), torch.randn(2, 3, 32, 32), make_condition(2)
    small = image.unflatten(3, (16, 2)).unflatten(2, (16, 2)).mean((3, 5))
    torch.testing.assert_close(judge(image, condition), judge(attngan.packed([small, image]), condition))
    other = attngan.packed([small, torch.randn(2, 3, 32, 32)])
    same = (judge(other, condition) - judge(image, condition)).abs().max(0).values < 1e-6
    assert same.tolist() == [True, False], "a stage sees its image alone"


def test_the_caption_is_a_gaussian():
    network, condition = generator(), make_condition(2)
    mean, log_variance = network.augmentation(condition)
    assert mean.shape == log_variance.shape == (2, 5)
    latent = latents(network, 2)
    latent[:, LATENT:] = 0
    plain = network(latent, condition)
    with torch.no_grad():  # a caption that leaves no room is its mean
        network.augmentation.text.out.bias[5:] -= 100
    latent[:, LATENT:].normal_()
    torch.testing.assert_close(network(latent, condition), plain)


def test_every_parameter_gets_a_gradient():
    condition, network, judge = make_condition(4), generator(), discriminator()
    judge(attngan.packed(network.stages(latents(network, 4), condition)), condition).square().sum().backward()
    for each in (network, judge):
        dead = [n for n, p in each.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        assert not dead


def test_samples_are_independent_and_padding_is_not_read():
    condition, network, judge = make_condition(4), generator(), discriminator()
    latent = latents(network, 4).requires_grad_()
    condition.tokens.requires_grad_()
    logits = judge(attngan.packed(network.stages(latent, condition)), condition)
    logits[1].sum().backward()
    for gradient in (latent.grad, condition.tokens.grad):
        assert (gradient.flatten(1).abs().sum(1) > 0).tolist() == [False, True, False, False]
    tokens = condition.tokens.detach().masked_fill(~condition.mask[..., None], 1e3)
    torch.testing.assert_close(network(latent, Condition(tokens, *condition[1:])), network(latent, condition))


def test_wrong_stages_are_told():
    with pytest.raises(UserError, match=r"stages=0: expected at least 1"):
        generator(stages=0)
