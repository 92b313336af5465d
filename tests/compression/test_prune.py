"""Pruning cuts exactly the channels that it says, everywhere they are made or read."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from trainer.compression.channels import groups
from trainer.compression.prune import effects, prune
from trainer.errors import UserError

from .conftest import make, node_of


def scale_channels(network: nn.Module, gone: dict[str, list[int]]) -> None:
    """Silence channels of the maps 4, 8, 16 pixels wide and of the style, wherever dcgan makes or reads them."""
    start, norms, ups = network.start, network.norms, network.ups
    rows = [position * 48 + channel for position in range(16) for channel in gone["4"]]
    silenced = [(start.weight, 0, rows), (start.bias, 0, rows), (ups[0].weight, 0, gone["4"])]
    silenced += [(ups[0].weight, 1, gone["8"]), (ups[0].bias, 0, gone["8"]), (ups[1].weight, 0, gone["8"])]
    silenced += [(ups[1].weight, 1, gone["16"]), (ups[1].bias, 0, gone["16"]), (network.image.weight, 1, gone["16"])]
    for norm, size, width in zip(norms, ("4", "8", "16"), (48, 32, 16), strict=True):
        both = [*gone[size], *(width + channel for channel in gone[size])]
        silenced += [(norm.style.weight, 0, both), (norm.style.bias, 0, both), (norm.style.weight, 1, gone["style"])]
    last = network.style.mix[2]
    silenced += [(last.weight, 0, gone["style"]), (last.bias, 0, gone["style"]), (start.weight, 1, gone["style"])]
    for tensor, dim, indices in silenced:
        tensor.index_fill_(dim, torch.tensor(indices), 0)


@pytest.mark.parametrize("importance", ["effect", "l1", "l2"])
def test_silent_channels_of_dcgan_go_and_the_rest_is_sliced_by_hand(inputs, importance):
    network = make(node_of("dcgan", 16))
    random = torch.Generator().manual_seed(3)
    sizes = {"4": 48, "8": 32, "16": 16, "style": 32}
    order = {name: torch.randperm(size, generator=random) for name, size in sizes.items()}
    gone = {name: each[: len(each) // 2].tolist() for name, each in order.items()}
    keep = {name: each[len(each) // 2 :].sort().values for name, each in order.items()}
    scale_channels(network, gone)
    pruned = prune(network, inputs, ratio=0.5, importance=importance).state_dict()

    start = torch.cat([position * 48 + keep["4"] for position in range(16)])
    norms = {str(i): torch.cat([keep[s], sizes[s] + keep[s]]) for i, s in enumerate(("4", "8", "16"))}
    state = network.state_dict()
    expected = {
        "start.weight": state["start.weight"][start][:, keep["style"]],
        "start.bias": state["start.bias"][start],
        "ups.0.weight": state["ups.0.weight"][keep["4"]][:, keep["8"]],
        "ups.0.bias": state["ups.0.bias"][keep["8"]],
        "ups.1.weight": state["ups.1.weight"][keep["8"]][:, keep["16"]],
        "ups.1.bias": state["ups.1.bias"][keep["16"]],
        "image.weight": state["image.weight"][:, keep["16"]],
        "image.bias": state["image.bias"],
        "style.mix.2.bias": state["style.mix.2.bias"][keep["style"]],
    }
    for number, rows in norms.items():
        expected[f"norms.{number}.style.weight"] = state[f"norms.{number}.style.weight"][rows][:, keep["style"]]
        expected[f"norms.{number}.style.bias"] = state[f"norms.{number}.style.bias"][rows]
    for name, weight in expected.items():
        assert torch.equal(pruned[name], weight), name


@pytest.mark.parametrize("ratio", [0.1, 0.37, 0.5, 0.9])
def test_every_family_at_any_ratio(generator, inputs, saved, ratio):
    node, network = generator
    before = deepcopy(network.state_dict())
    pruned = prune(network, inputs, ratio=ratio)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())  # left as it was
    image = pruned(*inputs[0])
    assert image.shape == network(*inputs[0]).shape
    assert image.isfinite().all()
    assert torch.equal(saved(node, network, pruned)(*inputs[0]), image)
    for module in pruned.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            assert module.in_channels % 8 == 0
            assert module.out_channels % 8 == 0 or module.out_channels == 3
    for attention in getattr(pruned, "attention", {}).values():
        assert attention.query.out_features == attention.key.out_features
        assert attention.value.out_features % attention.num_heads == 0


def test_the_word_heads_lose_the_same_channels(inputs):
    network = make(node_of("residual", 16))
    parts = [group for group in groups(network, inputs[0]) if group.width == 4]
    assert len(parts) == 4  # query with key, and value with out, at 8 and at 16 pixels
    for channel in parts[0].channels:
        rows = channel["attention.8.query.weight", 0]
        assert rows == channel["attention.8.key.weight", 0]
        assert [row % 8 for row in rows] == [rows[0]] * 4  # 32 channels, 4 heads


def test_groups_of_a_convolution_go_as_a_whole(inputs):
    """With the channels that it reads and those that are read of it; those left are as they were."""
    node = node_of("r3gan", 16, max_channels=32)
    network = make(node)
    pruned = prune(network, inputs, 0.5, "l1")
    before, after = (each.stages[0][0] for each in (network, pruned))
    assert (before.mix.groups, after.mix.groups) == (4, 2)
    assert (after.widen.out_channels, after.mix.out_channels, after.narrow.in_channels) == (32, 32, 32)
    whole = before.mix.weight.unflatten(0, (4, 16))
    kept = [i for i in range(4) for part in after.mix.weight.unflatten(0, (2, 16)) if torch.equal(part, whole[i])]
    assert len(kept) == 2
    rows = [16 * group + i for group in kept for i in range(16)]
    assert torch.equal(after.mix.bias, before.mix.bias[rows])


def test_effects_are_what_the_images_change_by(inputs):
    """|sum of w dG/dw| of a weight alone, against a difference quotient of the images."""
    network = make(node_of("dcgan", 16)).double()
    condition = inputs[0][1].map(lambda x: x.double() if x.is_floating_point() else x)
    batch = (inputs[0][0].double(), condition)
    found = torch.stack([each["ups.0.bias"] for each in effects(network, [batch] * 150)])
    with torch.no_grad():
        before, after = network(*batch), deepcopy(network)
        after.ups[0].bias[3] *= 1 - 1e-5
        change = (before - after(*batch)).norm() / 1e-5
    assert found[:, 3].square().mean().sqrt() == pytest.approx(change.item(), rel=0.15)


@pytest.mark.parametrize("family", ["dcgan", "dcgan-nearest", "residual"])  # random whole groups need not obey
@pytest.mark.parametrize("resolution", [16, [16, 32]])
def test_the_least_effect_is_nearer_than_the_smallest_norm(family, resolution, inputs):
    network = make(node_of(family, resolution))
    image = network(*inputs[0])
    effect, norm = (
        (prune(network, inputs, ratio=0.3, importance=each)(*inputs[0]) - image).square().mean()
        for each in ("effect", "l2")
    )
    assert effect < norm


def test_multiply_adds_of_the_stages_fall_to_a_quarter(inputs):
    network = make(node_of("dcgan", 32, max_channels=64))

    def flops(network: nn.Module) -> Counter:
        with FlopCounterMode(display=False) as counter:
            network(*inputs[0])
        return Counter({str(k): sum(v.values()) for k, v in counter.get_flop_counts().items()})

    before, after = flops(network), flops(prune(network, inputs))
    for number in range(3):
        assert 4 * after[f"Generator.ups.{number}"] == before[f"Generator.ups.{number}"] > 0
    assert 2 * after["Generator.image"] == before["Generator.image"]


class Users(nn.Module):
    """A generator as others write them: batch norm, channels before pixels, a concatenated skip, a depthwise layer."""

    latent_channels = 8

    def __init__(self, hard_coded: bool = False):
        super().__init__()
        self.hard_coded = hard_coded
        self.start = nn.Linear(8 + 24, 16 * 4 * 4)
        self.norm = nn.BatchNorm2d(16)
        self.scale = nn.Parameter(torch.ones(1, 16, 1, 1))
        self.up = nn.ConvTranspose2d(16, 32, 4, 2, 1)
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.join = nn.Conv2d(32 + 16, 24, 3, padding=1)
        self.constant = nn.Parameter(torch.randn(1, 24, 8, 8))
        self.layer_norm = nn.LayerNorm(32)
        self.image = nn.Conv2d(24, 3, 3, padding=1)

    def forward(self, latent: Tensor, condition) -> Tensor:
        x = self.start(torch.cat([latent, condition.pooled], 1))
        x = x.view(len(x), 16, 4, 4) if self.hard_coded else x.unflatten(1, (-1, 4, 4))
        x = torch.relu(self.norm(x)) * self.scale
        y = self.up(x)
        y = self.layer_norm(self.depthwise(y).movedim(1, 3)).movedim(3, 1)
        x = F.interpolate(x, scale_factor=2, mode="bilinear")
        return self.image(self.join(torch.cat([F.gelu(y), x], 1)) + self.constant).tanh()


class Grouped(nn.Module):
    """Channels that only a grouped convolution reads: which group would lose how many is not ours to say."""

    def __init__(self):
        super().__init__()
        self.start, self.image = nn.Conv2d(8, 16, 1), nn.Conv2d(16, 3, 1)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=2)

    def forward(self, latent: Tensor, condition) -> Tensor:
        return self.image(F.group_norm(self.grouped(self.start(latent[:, :, None, None])), 4))


def users(**settings) -> nn.Module:
    torch.manual_seed(0)
    network = Users(**settings).eval().requires_grad_(False)
    network.norm.running_mean.normal_()
    return network


def test_a_users_generator(inputs):
    network = users()
    for tensor, dim in ((network.up.weight, 1), (network.depthwise.weight, 0), (network.join.weight, 1)):
        tensor.index_fill_(dim, torch.arange(8, 24), 0)
    pruned = prune(network, inputs, importance="l2")
    kept = torch.cat([torch.arange(8), torch.arange(24, 32)])
    assert torch.equal(pruned.depthwise.bias, network.depthwise.bias[kept])
    assert torch.equal(pruned.layer_norm.weight, network.layer_norm.weight[kept])
    assert pruned.depthwise.groups == pruned.up.out_channels == 16
    assert pruned.join.weight.shape == (24, 24, 3, 3)  # what meets a constant map stays; 16 + 8 are read
    assert pruned.norm.running_mean.shape == (8,)
    assert pruned.scale.shape == (1, 8, 1, 1)
    assert pruned(*inputs[0]).shape == (4, 3, 8, 8)


def test_refusals(inputs):
    with pytest.raises(UserError, match="Users counts on a width that pruning changed"):
        prune(users(hard_coded=True), inputs)
    with pytest.raises(UserError, match=r"passes\.prune\.ratio=1\.0: expected at least 0 and less than 1"):
        prune(users(), inputs, ratio=1.0)
    with pytest.raises(UserError, match=r"importance=size: expected one of effect, l1, l2"):
        prune(users(), inputs, importance="size")
    with pytest.raises(UserError, match="Grouped has no channel that is free to go"):
        prune(Grouped(), inputs)
