"""A changed network is built again from its node and its state, bit for bit."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from trainer.compression import structure
from trainer.errors import UserError


class Scaled(nn.Module):
    """A module as passes put in: made of plain numbers, with a node."""

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels
        self.inner = nn.Linear(channels, channels)

    def node(self) -> dict:
        return {"_target_": f"{__name__}.Scaled", "channels": self.channels}

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + x


def cut(network: nn.Module, path: str, attribute: str, value: Tensor) -> None:
    structure.resize(network.get_submodule(path), attribute, value)


def narrowed(network: nn.Module) -> nn.Module:
    """Eight of the style's hidden channels taken out by hand."""
    network, keep = deepcopy(network), torch.arange(8, 32)
    first, second = network.style.mix[0], network.style.mix[2]
    cut(network, "style.mix.0", "weight", first.weight[keep])
    cut(network, "style.mix.0", "bias", first.bias[keep])
    cut(network, "style.mix.2", "weight", second.weight[:, keep])
    return network


def test_an_unchanged_network_keeps_its_node(generator):
    node, network = generator
    assert structure.node(node, network, deepcopy(network)) == node


def test_cut_and_replaced_come_back(generator, inputs, saved):
    node, original = generator
    network = narrowed(original)
    network.set_submodule("style.mix.3", Scaled(32))
    network.set_submodule("style.mix.3.inner", Scaled(32))  # a part of a part
    changed = structure.node(node, original, network)
    assert list(changed["modules"]) == ["style.mix.3", "style.mix.3.inner"]
    assert changed["shapes"] == {
        "style.mix.0.weight": [24, 40],
        "style.mix.0.bias": [24],
        "style.mix.2.weight": [32, 24],
    }
    back = saved(node, original, network)
    assert (back.style.mix[0].out_features, back.style.mix[2].in_features) == (24, 24)
    for batch in inputs:
        assert torch.equal(back(*batch), network(*batch))


def test_compressing_twice_is_one_level(generator, inputs, saved):
    node, original = generator
    once = narrowed(original)
    first = structure.node(node, original, once)
    twice = deepcopy(once)
    twice.set_submodule("style.mix.3", Scaled(32))
    second = structure.node(first, once, twice)
    assert second["network"] == node
    assert second["shapes"] == first["shapes"]
    assert torch.equal(saved(first, once, twice)(*inputs[0]), twice(*inputs[0]))


@pytest.mark.parametrize(
    ("module", "shape", "sizes"),
    [
        (nn.Conv2d(8, 6, 3), (4, 5, 3, 3), {"in_channels": 5, "out_channels": 4}),
        (nn.ConvTranspose2d(8, 6, 4), (5, 4, 4, 4), {"in_channels": 5, "out_channels": 4}),
        (nn.Conv2d(8, 8, 3, groups=8), (4, 1, 3, 3), {"in_channels": 4, "out_channels": 4, "groups": 4}),
        (nn.Linear(8, 6), (4, 5), {"in_features": 5, "out_features": 4}),
        (nn.LayerNorm(8), (5,), {"normalized_shape": (5,)}),
        (nn.BatchNorm2d(8), (5,), {"num_features": 5}),
    ],
)
def test_sizes_follow_the_weight(module, shape, sizes):
    structure.resize(module, "weight", torch.zeros(shape))
    assert {name: getattr(module, name) for name in sizes} == sizes


def test_what_cannot_be_built_again_is_refused(generator):
    node, original = generator
    network = deepcopy(original)
    network.start = nn.Sequential(network.start)
    with pytest.raises(UserError, match="start became a Sequential"):
        structure.node(node, original, network)
    network = deepcopy(original)
    network.start.bias = None
    with pytest.raises(UserError, match=r"start\.bias came or went"):
        structure.node(node, original, network)
