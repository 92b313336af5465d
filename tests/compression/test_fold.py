"""Folding changes nothing but rounding, and comes back from its files."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trainer.compression.fold import FoldedBlock, FoldedNorm, FoldedText, FoldedUpBlock, fold
from trainer.compression.prune import prune
from trainer.compression.subpixel import SubPixel, is_subpixel, of_resized, of_transposed
from trainer.networks.enlarging import Enlarge
from trainer.networks.layers import ModulatedNorm, TextVector
from trainer.networks.residual import UpBlock
from trainer.networks.worded import WordedGenerator

from .conftest import make, node_of

BOUND = 1e-5  # of the images' range


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(((a - b).abs().max() / b.abs().max()).detach())


@pytest.mark.parametrize("size", [8, 16, 20])
def test_in_onnx_norms_are_sums_over_the_channels(size):
    x, style = torch.randn(3, 12, size, size + 4).double(), torch.randn(3, 6).double()
    norm = ModulatedNorm(12, 6).double()
    assert distance(norm.for_onnx()(x, style), norm(x, style)) < 1e-9
    x = x - x.mean(1, keepdim=True)
    for centred in (True, False):
        folded = FoldedNorm(12, 6, centred).double()
        assert distance(folded.for_onnx()(x, style), folded(x.clone(), style)) < 1e-9


@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (5, 3)])
@pytest.mark.parametrize("exporting", [False, True])
def test_subpixel_is_the_transposed_and_the_resized_convolution(shape, exporting, monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: exporting)
    x = torch.randn(2, 6, *shape, generator=torch.Generator().manual_seed(0)).double()
    up = nn.ConvTranspose2d(6, 5, 4, stride=2, padding=1).double()
    assert distance(of_transposed(up)(x), up(x)) < 1e-12
    conv = nn.Conv2d(6, 5, 3, padding=1).double()
    assert distance(of_resized(conv)(x), conv(F.interpolate(x, scale_factor=2))) < 1e-12


@pytest.mark.parametrize("bias", [True, False])
def test_in_onnx_it_is_a_transposed_convolution(bias):
    x = torch.randn(2, 6, 5, 3, generator=torch.Generator().manual_seed(0)).double()
    resized, transposed = nn.Conv2d(6, 5, 3, padding=1, bias=bias), nn.ConvTranspose2d(6, 5, 4, 2, 1)
    for layer in (of_resized(resized), of_transposed(transposed)):
        other = layer.for_onnx()
        assert type(other) is nn.ConvTranspose2d and distance(other.double()(x), layer.double()(x)) < 1e-12
    layer.conv.bias.data[0] += 1  # which no transposed convolution has
    assert layer.for_onnx() is layer
    layer.conv = nn.Sequential(layer.conv)
    assert layer.for_onnx() is layer, "as of low rank, or in 8 bits"


def test_what_is_no_subpixel_layer():
    assert is_subpixel(nn.ConvTranspose2d(4, 4, 4, stride=2, padding=1))
    assert not is_subpixel(nn.ConvTranspose2d(4, 4, 3, stride=2, padding=1))
    assert not is_subpixel(nn.ConvTranspose2d(4, 4, 4, stride=2, padding=1, groups=2))


def test_images_stay(generator, inputs, saved):
    node, network = generator
    before = {key: value.clone() for key, value in network.state_dict().items()}
    folded = fold(network, inputs)
    classes = {type(module) for module in folded.modules()}
    assert not classes & {ModulatedNorm, TextVector, UpBlock}
    assert classes >= {FoldedText} | ({FoldedNorm} if "ModulatedNorm" in str(network) else set())
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    back = saved(node, network, folded)
    for batch in inputs:
        assert 0 < distance(folded(*batch), network(*batch)) < BOUND
        assert torch.equal(back(*batch), folded(*batch))
        assert folded(*batch).is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_folding_twice_changes_nothing(generator, inputs):
    once = fold(generator[1], inputs)
    twice = fold(once, inputs)
    assert [type(module) for module in once.modules()] == [type(module) for module in twice.modules()]
    assert torch.equal(once(*inputs[0]), twice(*inputs[0]))


def test_behind_a_text_encoder_it_is_folded_as_on_its_own(generator, inputs):
    alone, behind = fold(generator[1], inputs), fold(WordedGenerator(nn.Identity(), generator[1])).generator
    assert [type(module) for module in behind.modules()] == [type(module) for module in alone.modules()]
    assert torch.equal(behind(*inputs[0]), alone(*inputs[0]))


@pytest.mark.parametrize("resolution", [16, [52, 72]])  # by way of 6, 13 and 26 rows
@pytest.mark.parametrize("family", ["dcgan", "dcgan-nearest", "progressive", "residual", "r3gan", "stylegan2"])
def test_a_pruned_network_folds(family, resolution, inputs, saved):
    node = node_of(family, resolution)
    network = make(node)
    pruned = prune(network, inputs, 0.5)
    folded = fold(pruned, inputs)
    assert distance(folded(*inputs[0]), pruned(*inputs[0])) < BOUND
    assert torch.equal(saved(node, network, folded)(*inputs[0]), folded(*inputs[0]))


def test_narrow_maps_of_dcgan_are_made_by_subpixel_layers():
    folded = fold(make(node_of("dcgan", 32)))
    assert [type(up) for up in folded.ups] == [nn.ConvTranspose2d, nn.ConvTranspose2d, SubPixel]
    assert all(norm.settings["centred"] for norm in folded.norms)


def test_all_resized_maps_of_dcgan_are_made_by_subpixel_layers():
    folded = fold(make(node_of("dcgan-nearest", 32)))
    assert [type(up) for up in folded.ups] == [SubPixel] * 3
    assert all(norm.settings["centred"] for norm in folded.norms)


def test_residual_blocks_work_at_the_smaller_size():
    folded = fold(make(node_of("residual", 32)))
    assert all(type(up) is FoldedUpBlock for up in folded.ups)
    assert [up.norm2.settings["centred"] for up in folded.ups] == [True] * 3


@pytest.mark.parametrize("resolution", [16, [52, 72]])
@pytest.mark.parametrize("level", [2.0, 1.4, 0.5, 0.0])
def test_progressive_works_at_the_smaller_size_at_any_level(resolution, level, inputs, saved):
    node = node_of("progressive", resolution, level=level)
    network = make(node)
    folded = fold(network, inputs)
    assert all(type(block) is FoldedBlock for block in folded.blocks)
    assert not any(type(module) in (ModulatedNorm, TextVector) for module in folded.modules())
    back = saved(node, network, folded)
    for batch in inputs:
        assert 0 < distance(folded(*batch), network(*batch)) < BOUND
        assert torch.equal(back(*batch), folded(*batch))


def test_what_enlarges_is_one_convolution_wherever_it_is():
    network = nn.Sequential(nn.Sequential(Enlarge(6, 5)), nn.Tanh()).eval().requires_grad_(False).double()
    x = torch.randn(2, 6, 5, 3, generator=torch.Generator().manual_seed(0)).double()
    folded = fold(network)
    assert type(folded[0][0]) is SubPixel and distance(folded(x), network(x)) < 1e-12
