"""Sparse layers: the smallest weights go, fewer bytes are stored, and the same bits come back."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save
from torch import nn

from trainer.compression.sparsify import SPARSE, SparseConv2d, largest_of_four, sparsify
from trainer.errors import UserError


def weights(network: nn.Module) -> dict[str, torch.Tensor]:
    kinds = tuple(SPARSE)
    return {path: module.weight for path, module in network.named_modules() if isinstance(module, kinds)}


def stored(network: nn.Module) -> int:
    return len(save({key: value.contiguous() for key, value in network.state_dict().items()}))


@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.95])
def test_the_smallest_go_everywhere(generator, inputs, saved, sparsity):
    node, network = generator
    smaller = sparsify(network, inputs, sparsity=sparsity)
    before, after = weights(network), weights(smaller)
    assert before.keys() == after.keys()
    old, new = (torch.cat([weight.flatten() for weight in each.values()]) for each in (before, after))
    gone = new == 0
    assert gone.float().mean() == pytest.approx(sparsity, abs=1e-3)
    assert torch.equal(new[~gone], old[~gone])
    assert old[gone].abs().max() <= old[~gone].abs().min()
    assert (old - new).norm() <= sparsity**0.5 * old.norm()

    image = smaller(*inputs[0])
    assert image.isfinite().all()
    assert image.shape == network(*inputs[0]).shape
    back = saved(node, network, smaller)
    assert torch.equal(back(*inputs[0]), image)
    assert all(torch.equal(a, b) for a, b in zip(weights(back).values(), after.values(), strict=True))


def test_fewer_bytes_are_stored(generator, inputs):
    _, network = generator
    dense = 4 * sum(weight.numel() for weight in weights(network).values())
    rest = stored(network) - dense
    for sparsity in (0.5, 0.9):
        expected = rest + dense * (1 - sparsity + 1 / 32)
        assert stored(sparsify(network, inputs, sparsity=sparsity)) == pytest.approx(expected, rel=0.06)


def test_two_of_four(generator, inputs, saved):
    node, network = generator
    smaller = sparsify(network, inputs, pattern="2:4")
    assert torch.equal(saved(node, network, smaller)(*inputs[0]), smaller(*inputs[0]))
    last, whole = (each.images[0].pixels if hasattr(each, "images") else each.image for each in (smaller, network))
    assert torch.equal(last.weight != 0, largest_of_four(whole.weight, 1))
    within = [each for path, each in smaller.named_modules() if path.startswith(("ups.", "stages.", "blocks."))]
    first = next(each for each in within if isinstance(each, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)))
    up = first.weight.transpose(0, 1) if isinstance(first, nn.ConvTranspose2d) else first.weight
    counts = (up.unflatten(1, (-1, 4)) != 0).sum(2)
    assert (counts == 2).all()
    for name, weight in weights(smaller).items():
        assert (weights(network)[name] - weight).norm() <= 0.5**0.5 * weights(network)[name].norm()


def test_the_two_largest_stay():
    weight = torch.tensor([[1.0, -4.0, 3.0, 0.5, 0.0, 0.1, -0.2, 0.3]])
    assert largest_of_four(weight, 1).tolist() == [[False, True, True, False, False, False, True, True]]
    assert largest_of_four(weight[:, :6], 1).all()


def test_an_empty_layer_and_half_precision():
    layer = SparseConv2d(3, 5, 3).to(torch.bfloat16)
    nn.init.zeros_(layer.weight)
    layer.weight.data[4, 2, 2, 2] = -1.5
    other = SparseConv2d(3, 5, 3)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.weight, layer.weight.float())
    nn.init.zeros_(layer.weight)
    other.load_state_dict(layer.state_dict())
    assert not other.weight.any()


def test_sparse_again_is_sparser(generator, inputs):
    once = sparsify(generator[1], inputs, sparsity=0.3)
    twice = sparsify(once, inputs, sparsity=0.6)
    assert stored(twice) < stored(once)
    assert {type(module) for module in twice.modules()} == {type(module) for module in once.modules()}


def test_it_says_what_it_is_good_for(generator, inputs, capsys):
    sparsify(generator[1], inputs, sparsity=0.5)
    line = capsys.readouterr().err
    assert line.startswith("sparsify: 50% of the weights of")
    assert line.endswith("fewer bytes, no more speed\n")


def test_refusals(generator, inputs):
    with pytest.raises(UserError, match=r"passes\.sparsify\.sparsity=1: expected more than 0 and less than 1"):
        sparsify(generator[1], inputs, sparsity=1)
    with pytest.raises(UserError, match=r"passes\.sparsify\.pattern=1:4: expected null or 2:4"):
        sparsify(generator[1], inputs, pattern="1:4")
