"""Nearest resizing and a convolution: in training by fewer multiply-adds, and the same."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from trainer.compression.subpixel import behind_resizing, of_resized
from trainer.networks.enlarging import Enlarge, enlarged


def taught(function, network, x):
    """The maps that a function makes, and the gradients of x and of the network's weights by a fixed slope."""
    x = x.clone().requires_grad_()
    y = function(x)
    slope = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape).cos()
    return [y, *torch.autograd.grad((y * slope).sum(), [x, *network.parameters()])]


@pytest.mark.parametrize(("height", "width"), [(4, 4), (1, 3)])
def test_in_training_and_in_use_it_is_resizing_and_a_convolution(height, width):
    torch.manual_seed(0)
    network = Enlarge(3, 5).double()
    x = torch.randn(2, 3, height, width, dtype=torch.float64)
    written = taught(lambda x: F.conv2d(F.interpolate(x, scale_factor=2), *network.parameters(), padding=1), network, x)
    for part, other in zip(taught(network.train(), network, x), written, strict=True):
        torch.testing.assert_close(part, other, rtol=0, atol=1e-12)
    for part, other in zip(taught(network.eval(), network, x), written, strict=True):
        assert torch.equal(part, other)


def test_in_training_it_takes_four_ninths_of_the_multiply_adds():
    network, x = Enlarge(8, 8), torch.randn(1, 8, 8, 8)
    counts = {}
    for training in (True, False):
        with FlopCounterMode(display=False) as counter:
            network.train(training)(x).sum().backward()
        counts[training] = counter.get_total_flops()
    assert counts[True] / counts[False] == pytest.approx(4 / 9, rel=0.01)


def test_what_took_the_place_of_its_convolution_is_called():
    pair = nn.Sequential(nn.Conv2d(3, 2, kernel_size=3, padding=1), nn.Conv2d(2, 5, kernel_size=1)).train()
    x = torch.randn(1, 3, 4, 4)
    assert torch.equal(enlarged(x, pair), pair(F.interpolate(x, scale_factor=2)))
    network = Enlarge(3, 5)
    network[1] = pair
    assert behind_resizing(network) is None


def test_weights_in_parts_are_left_to_the_call_that_gathers_them():
    """As of DeepSpeed's stage 3: empty until the module is called."""
    network, x = Enlarge(3, 5).train(), torch.randn(1, 3, 4, 4)
    whole, expected = network[1].weight.data, network(x)
    network[1].weight.ds_id = 0
    network[1].weight.data = torch.empty(0)
    network[1].register_forward_pre_hook(lambda conv, _: setattr(conv.weight, "data", whole))
    torch.testing.assert_close(network(x), expected, rtol=0, atol=1e-5)


def test_folded_it_stays_the_same():
    network, x = Enlarge(3, 5), torch.randn(2, 3, 6, 6)
    torch.testing.assert_close(of_resized(behind_resizing(network))(x), network.train()(x), rtol=0, atol=1e-5)
