"""The dual encoder: shapes, a gradient for every parameter, and no sample or padding that another reads."""

import pytest
import torch
from torch import nn

from trainer.batch import Condition
from trainer.losses.matching import global_scores
from trainer.networks.matching import ImageEncoder, Matcher, TextEncoder
from trainer.text.scratch import TextTransformer

TEXT, WIDTH = 24, 10


def make_condition(num: int, length: int = 6) -> Condition:
    mask = torch.arange(length)[None] < torch.arange(1, num + 1).clamp(max=length)[:, None]
    return Condition(torch.randn(num, length, TEXT), mask, torch.randn(num, TEXT))


def make(resolution=16, text=None):
    torch.manual_seed(0)
    image_encoder = ImageEncoder(resolution, WIDTH, base_channels=8, max_channels=32)
    return Matcher(image_encoder, TextEncoder(TEXT, WIDTH, text or nn.Identity()))


@pytest.mark.parametrize("resolution", [16, 32, 64])
def test_shapes(resolution):
    matcher, image = make(resolution), torch.randn(3, 3, resolution, resolution)
    whole, regions = matcher.image(image)
    assert (whole.shape, regions.shape) == ((3, WIDTH), (3, WIDTH, 4, 4))
    whole, words = matcher.text(make_condition(2))
    assert (whole.shape, words.shape) == ((2, WIDTH), (2, 6, WIDTH))
    condition = make_condition(2)
    similarity = global_scores(matcher.image(image)[0], matcher.text(condition)[0])
    assert similarity.shape == (3, 2)
    whole, _ = matcher.text(condition)
    expected = torch.nn.functional.cosine_similarity(matcher.image(image)[0][1], whole[0], dim=0)
    torch.testing.assert_close(similarity[1, 0], expected)


def test_every_parameter_gets_a_gradient():
    text = TextTransformer(TEXT, num_layers=1, num_heads=2, vocabulary=16, max_tokens=6)
    matcher, condition = make(text=text), make_condition(4)
    ids = torch.randint(2, 16, condition.mask.shape) * condition.mask
    outputs = matcher.image(torch.randn(4, 3, 16, 16)) + matcher.text(Condition(ids, condition.mask, torch.empty(4, 0)))
    sum(each.square().sum() for each in outputs).backward()
    assert not [n for n, p in matcher.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


def test_samples_are_independent():
    matcher, image, condition = make(), torch.randn(4, 3, 16, 16, requires_grad=True), make_condition(4)
    condition.tokens.requires_grad_()
    for given, outputs in ((image, matcher.image(image)), (condition.tokens, matcher.text(condition))):
        (gradient,) = torch.autograd.grad(sum(each[1].sum() for each in outputs), given)
        assert (gradient.flatten(1).abs().sum(1) > 0).tolist() == [False, True, False, False]


def test_padding_does_not_reach_the_whole():
    matcher, condition = make(), make_condition(4)
    whole, _ = matcher.text(condition)
    condition.tokens[~condition.mask] = 1e3
    torch.testing.assert_close(matcher.text(condition)[0], whole)
