"""R3GAN's blocks against the formulas of the paper."""

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, leaky_relu

from trainer.batch import Condition
from trainer.errors import UserError
from trainer.networks.r3gan import Block, Discriminator, Generator


def randomised(module):
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


def test_a_block_adds_two_1x1_and_a_grouped_3x3_convolution():
    torch.manual_seed(0)
    block, x = randomised(Block(8, expansion=2, group=4, depth=3)), torch.randn(2, 8, 5, 5)
    inner = leaky_relu(conv2d(leaky_relu(x, 0.2), block.widen.weight, block.widen.bias), 0.2)
    groups = [
        conv2d(inner[:, i : i + 4], block.mix.weight[i : i + 4], block.mix.bias[i : i + 4], padding=1)
        for i in range(0, 16, 4)
    ]
    expected = x + conv2d(leaky_relu(torch.cat(groups, 1), 0.2), block.narrow.weight)
    torch.testing.assert_close(block(x), expected)


def test_a_block_starts_as_the_identity_and_its_weights_by_fixup():
    torch.manual_seed(0)
    block, x = Block(256, expansion=2, group=16, depth=16), torch.randn(1, 256, 4, 4)
    assert torch.equal(block(x), x)
    gain = (2 / 1.04) ** 0.5 / 2  # L^(-1/4) of L = 16 blocks
    for layer, fan_in in ((block.widen, 256), (block.mix, 16 * 9)):
        assert layer.weight.detach().std() == pytest.approx(gain / fan_in**0.5, rel=0.02)
        assert not layer.bias.any()


def test_a_group_must_fit():
    with pytest.raises(UserError, match="6 channels times expansion=2: expected a multiple of group=16"):
        Block(6, expansion=2, group=16, depth=1)


def test_what_is_beyond_the_range_is_cut_off_once_it_draws():
    torch.manual_seed(0)
    generator = Generator(16, 4, 12, nn.Identity(), base_channels=8, max_channels=16)
    nn.init.constant_(generator.image.bias, 3.0)
    condition = Condition(torch.randn(2, 3, 12), torch.ones(2, 3, dtype=torch.bool), torch.randn(2, 12))
    drawn = generator(torch.randn(2, 4), condition)
    assert drawn.max() > 1
    torch.testing.assert_close(generator.eval()(torch.zeros(2, 4), condition).max(), torch.tensor(1.0))


def test_maps_are_resized_without_a_checkerboard():
    """Of a map that is the same everywhere the next is, too, away from the edges' padding."""
    generator = randomised(Generator(16, 4, 12, nn.Identity(), base_channels=8, max_channels=16))
    for stage in generator.stages:
        for block in stage:
            nn.init.zeros_(block.narrow.weight)  # 1x1 convolutions and resizing alone
    nn.init.constant_(generator.basis, 0.7)
    condition = Condition(torch.randn(1, 3, 12), torch.ones(1, 3, dtype=torch.bool), torch.randn(1, 12))
    image = generator(torch.randn(1, 4), condition)[0]
    torch.testing.assert_close(image, image[:, :1, :1].expand_as(image))


def test_several_captions_of_one_image():
    torch.manual_seed(0)
    network = randomised(Discriminator(16, 12, nn.Identity(), base_channels=8, max_channels=16))
    condition = Condition(torch.randn(2, 3, 12), torch.ones(2, 3, dtype=torch.bool), torch.randn(2, 12))
    image = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(network.logits(network.features(image), condition), network(image, condition))
