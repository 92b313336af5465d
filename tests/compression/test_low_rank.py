"""Low-rank factors: exact where nothing is cut, within the bound elsewhere, and only where they save work."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from trainer.compression.calibration import responses
from trainer.compression.low_rank import (
    LowRank,
    canonical,
    factorize,
    low_rank,
    merge_factors,
    multiply_adds,
    num_kept,
    splits,
)
from trainer.errors import UserError

LAYERS = [
    nn.Linear(12, 20),
    nn.Conv2d(6, 10, 3, padding=1),
    nn.Conv2d(6, 10, (3, 5), stride=(2, 1), padding=(1, 2), bias=False),
    nn.Conv2d(6, 10, 3, padding=2, dilation=2),
    nn.Conv2d(6, 10, 1, stride=2),
    nn.ConvTranspose2d(6, 10, 4, stride=2, padding=1),
    nn.ConvTranspose2d(6, 10, 3, stride=2, padding=1, output_padding=1, bias=False),
]


def image_of(layer: nn.Module) -> torch.Tensor:
    return torch.randn(3, 12) if isinstance(layer, nn.Linear) else torch.randn(3, 6, 8, 8)


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_whole_rank_is_the_layer(layer):
    x = image_of(layer)
    for split in splits(layer, energy=1.0, rank=None):
        torch.testing.assert_close(split(x), layer(x), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(merge_factors(split)(x), layer(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layer", LAYERS, ids=str)
@pytest.mark.parametrize("energy", [0.5, 0.9, 0.99])
def test_the_bound_of_the_weight(layer, energy):
    weight = canonical(layer)
    for split in splits(layer, energy, rank=None):
        lost = (canonical(merge_factors(split)) - weight).norm() / weight.norm()
        assert lost <= (1 - energy) ** 0.5 + 1e-6


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_multiply_adds_are_those_of_the_counter(layer):
    x = image_of(layer)[:1]
    pixels = x[0, 0].numel() if x.dim() > 2 else 1
    for network in (nn.Sequential(layer), *splits(layer, energy=0.8, rank=None)):
        with FlopCounterMode(display=False) as counter:
            network(x)
        assert counter.get_total_flops() == pytest.approx(2 * pixels * multiply_adds(network), rel=0.0)


def thin(network: nn.Module, rank: int = 3) -> nn.Module:
    """Weights that are of low rank, but for some noise, as trained ones are more than random ones."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d) and min(layer.weight.shape[:2]) > rank:
            rows = layer.weight.flatten(1)
            low = torch.randn(len(rows), rank) @ torch.randn(rank, rows.shape[1]) / (rank * rows.shape[1]) ** 0.5
            layer.weight.copy_((low + 0.02 * rows).view_as(layer.weight))
    return network


@pytest.mark.parametrize(("by", "energy"), [("weights", 0.99), ("responses", 0.99)])
def test_every_family(generator, inputs, saved, by, energy):
    node, network = generator
    image = thin(network)(*inputs[0])
    smaller = low_rank(network, inputs, energy=energy, by=by)
    count = [sum(p.numel() for p in each.parameters()) for each in (network, smaller)]
    assert count[1] < 0.7 * count[0]
    drawn = smaller(*inputs[0])
    assert drawn.shape == image.shape
    assert (drawn - image).square().mean() < 0.3 * image.var()
    assert torch.equal(saved(node, network, smaller)(*inputs[0]), drawn)
    assert torch.equal(network(*inputs[0]), image)


@pytest.mark.parametrize("by", ["weights", "responses"])
def test_the_more_stays_the_nearer(generator, inputs, by):
    network = thin(generator[1])
    image = network(*inputs[0])
    far, near = (low_rank(network, inputs, energy=energy, by=by)(*inputs[0]) - image for energy in (0.5, 0.995))
    assert far.square().mean() > 4 * near.square().mean()


@pytest.mark.parametrize("layer", LAYERS, ids=str)
@pytest.mark.parametrize("energy", [0.5, 0.9, 0.999])
def test_the_bound_of_the_responses(layer, energy):
    """Of the inputs that were seen: what is lost of the outputs' variance is what was allowed, and no rank would do
    with less."""

    class Alone(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x, condition):
            return self.layer(x)

    batches = [(image_of(layer), None) for _ in range(2)]
    known = responses(Alone(), batches, {"layer": layer})["layer"]
    split = factorize(layer, known, energy, rank=None)
    x = torch.cat([x for x, _ in batches])
    rows, near = (each(x).movedim(1, -1).flatten(0, -2).double() for each in (layer, split))
    total = (rows - rows.mean(0)).square().sum()
    assert (rows - near).square().sum() <= (1 - energy) * total * (1 + 1e-5) + 1e-6
    values = torch.linalg.svdvals(rows - rows.mean(0)).square()
    kept = canonical(split[0]).shape[1]
    assert values[kept - 1 :].sum() > (1 - energy) * total


def test_layers_that_no_input_reaches_stay(generator, inputs):
    network = generator[1]
    network.spare = nn.Linear(64, 64)
    assert isinstance(low_rank(network, inputs, energy=0.5).spare, nn.Linear)


def test_as_many_singular_values_as_are_needed():
    values = torch.tensor([3.0, 2.0, 1.0, 0.5])  # squares 9, 4, 1, 0.25 of 14.25
    assert [num_kept(values, energy, None) for energy in (0.1, 9.1 / 14.25, 13.1 / 14.25, 1.0)] == [1, 2, 3, 4]
    assert [num_kept(values, 1.0, rank) for rank in (0.1, 0.5, 0.6, 1.0)] == [1, 2, 3, 4]


def test_only_where_it_saves_work(generator, inputs, capsys):
    whole = low_rank(generator[1], inputs, energy=1.0, by="weights")
    assert not any(isinstance(module, LowRank) for module in whole.modules())
    assert "layers takes 75% of its multiply-adds or less: nothing changed" in capsys.readouterr().err


@pytest.mark.parametrize("by", ["weights", "responses"])
def test_factors_are_factored_as_the_layer_that_they_are(generator, inputs, saved, by):
    node, network = generator
    once = low_rank(thin(network, rank=6), inputs, energy=0.98, by="weights")
    twice = low_rank(once, inputs, energy=0.8, by=by)
    pairs = [path for path, module in twice.named_modules() if isinstance(module, LowRank)]
    assert pairs
    assert not any(b.startswith(f"{a}.") for a in pairs for b in pairs)
    total = [sum(p.numel() for p in each.parameters()) for each in (network, once, twice)]
    assert total[2] < total[1] < total[0]
    assert torch.equal(saved(node, network, twice)(*inputs[0]), twice(*inputs[0]))


def test_refusals(generator, inputs):
    with pytest.raises(UserError, match=r"passes\.low_rank\.energy=0: expected more than 0 and at most 1"):
        low_rank(generator[1], inputs, energy=0)
    with pytest.raises(UserError, match=r"passes\.low_rank\.rank=1\.5"):
        low_rank(generator[1], inputs, rank=1.5)
    with pytest.raises(UserError, match=r"passes\.low_rank\.by=size: expected responses or weights"):
        low_rank(generator[1], inputs, by="size")
