"""Autoencoders with a spatial bottleneck: shapes, gradients, and no image or caption that sees another."""

import pytest
import torch
from torch import nn

from trainer.batch import Condition
from trainer.errors import UserError
from trainer.networks.quantizers import FSQ, VQ, Gaussian
from trainer.networks.tokenizer import Decoder, Encoder, Tokenizer

TEXT = 24
BOTTLENECKS = [lambda: FSQ([5, 4, 3]), lambda: VQ(16, 4), lambda: Gaussian(3)]


def make_condition(num, length=6):
    draw = torch.Generator().manual_seed(1)
    mask = torch.arange(length)[None] < torch.arange(1, num + 1).clamp(max=length)[:, None]
    return Condition(torch.randn(num, length, TEXT, generator=draw), mask, torch.randn(num, TEXT, generator=draw))


def make(bottleneck=BOTTLENECKS[0], resolution=16, size=4):
    torch.manual_seed(0)
    encoder = Encoder(resolution, size, 8, 16)
    tokenizer = Tokenizer(encoder, bottleneck(), Decoder(resolution, size, TEXT, nn.Identity(), 8, 16, 16))
    for module in tokenizer.decoder.attention.values():
        nn.init.normal_(module.out.weight, std=0.1)  # it begins as the identity, which would hide a missing gradient
    return tokenizer


@pytest.mark.parametrize("bottleneck", BOTTLENECKS)
@pytest.mark.parametrize(("resolution", "size"), [(16, 2), (32, 8), (64, 16)])
def test_shapes(bottleneck, resolution, size):
    tokenizer, condition = make(bottleneck, resolution, size), make_condition(2)
    image = torch.rand(2, 3, resolution, resolution) * 2 - 1
    back, passed, features = tokenizer(image, condition, torch.randn(2, tokenizer.num_draws(image)))
    assert back.shape == image.shape
    assert back.abs().max() <= 1
    assert features.shape[2:] == (size, size)
    assert passed.cost.shape == (2,)
    if tokenizer.num_codes:
        codes = tokenizer.encode(image)
        assert codes.shape == (2, size, size)
        assert 0 <= codes.min() <= codes.max() < tokenizer.num_codes
        torch.testing.assert_close(tokenizer.decode(codes, condition), back)


@pytest.mark.parametrize("bottleneck", BOTTLENECKS)
def test_every_parameter_gets_a_gradient(bottleneck):
    tokenizer = make(bottleneck)
    image = torch.randn(4, 3, 16, 16)
    normals = torch.randn(4, tokenizer.num_draws(image))
    back, passed, _ = tokenizer(image, make_condition(4), normals)
    (back.square().mean() + passed.cost.mean()).backward()
    assert not [n for n, p in tokenizer.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


def test_samples_are_independent():
    tokenizer, condition = make(), make_condition(4)
    image = torch.randn(4, 3, 16, 16, requires_grad=True)
    condition.tokens.requires_grad_()
    tokenizer(image, condition, torch.empty(4, 0))[0][1].sum().backward()
    for gradient in (image.grad, condition.tokens.grad):
        assert (gradient.flatten(1).abs().sum(1) > 0).tolist() == [False, True, False, False]


def test_sizes_are_checked():
    for size in (3, 16, 32):
        with pytest.raises(UserError, match=f"size={size} at 16 pixels"):
            Encoder(16, size)
    with pytest.raises(UserError, match="ends at size=4"):
        Tokenizer(Encoder(16, 4), FSQ([5, 5]), Decoder(16, 8, TEXT, nn.Identity()))
