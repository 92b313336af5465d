"""The captioner: gradients, no piece that sees a later one, no image that sees another, only known pieces."""

import pytest
import torch

from trainer.errors import UserError
from trainer.networks.captioner import Captioner

VOCABULARY, LENGTH = 12, 6


def make():
    torch.manual_seed(0)
    network = Captioner(16, VOCABULARY, LENGTH, 4, 8, word_channels=8, width=16, num_layers=2, num_heads=2)
    network.learn(torch.arange(9))
    return network


def given(count=4):
    draw = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, 16, 16, generator=draw), torch.randint(0, 9, (count, LENGTH), generator=draw)


def test_every_parameter_gets_a_gradient_and_unknown_pieces_none():
    network = make()
    image, ids = given()
    logits = network(image, ids)
    assert logits.shape == (4, LENGTH, 9)
    logits.square().sum().backward()
    assert not [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not network.pieces.weight.grad[9:VOCABULARY].any()
    assert network.pieces.weight.grad[VOCABULARY].any(), "what begins a caption"


def test_a_piece_depends_on_its_image_and_on_those_before_it():
    network = make().eval()
    image, ids = given()
    image.requires_grad_()
    network(image, ids)[1].sum().backward()
    assert (image.grad.flatten(1).abs().sum(1) > 0).tolist() == [False, True, False, False]
    with torch.no_grad():
        other = ids.clone()
        other[:, 3] = (other[:, 3] + 1) % 9
        same = torch.isclose(network(image, ids), network(image, other), atol=1e-6).all(-1).all(0)
    assert same.tolist() == [True, True, True, True, False, False]


def test_steps_with_what_was_seen_are_the_whole():
    network = make().eval()
    image, ids = given()
    with torch.no_grad():
        whole, past = network(image, ids), network.begin(image)
        last = torch.full((4, 1), VOCABULARY)
        for place in range(LENGTH):
            logits, past = network.step(last, past)
            torch.testing.assert_close(logits[:, 0], whole[:, place], atol=1e-5, rtol=1e-4)
            last = ids[:, place : place + 1]


def test_a_width_that_does_not_divide_is_told():
    with pytest.raises(UserError, match=r"captioner.width=15: expected a multiple of 2"):
        Captioner(16, 9, 5, width=15, num_heads=1)
