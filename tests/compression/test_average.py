"""The mean of checkpoints, in whatever objective the network lies."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from trainer.compression.average import average
from trainer.errors import UserError

from .conftest import make, node_of


def save(path: Path, network: nn.Module, prefix: str = "generator.", ema: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {prefix + name: value.clone() for name, value in network.state_dict().items()}
    state["discriminator.image.weight"] = torch.randn(3)
    other = {name: torch.randn_like(value) for name, value in state.items()}
    torch.save(
        {"config": {}, "images_seen": 1, "state_dict": other if ema else state, "ema": state if ema else {}}, path
    )
    return path


@pytest.fixture
def run(generator, tmp_path) -> tuple[Path, nn.Module, list[dict[str, torch.Tensor]]]:
    """A run folder with three checkpoints, its network with the weights of the last, and all weights."""
    network, states = generator[1], []
    for number in range(3):
        torch.manual_seed(number)
        for parameter in network.parameters():
            parameter.normal_()
        save(tmp_path / f"checkpoints/kimg00000{number}.000.ckpt", network, ema=number == 1)
        states.append({name: value.clone() for name, value in network.state_dict().items()})
    save(tmp_path / "checkpoints/best.ckpt", network)
    return tmp_path, network, states


def test_constants_that_no_checkpoint_has_stay(tmp_path):
    """As the filters of stylegan2."""
    node = node_of("stylegan2")
    one, other = make(node), make(node)
    for parameter in other.parameters():
        parameter.mul_(3)
    files = [str(save(tmp_path / f"{name}.ckpt", each)) for name, each in (("one", one), ("other", other))]
    mean = average(one, [], run="", checkpoints=files)
    for (name, a), b in zip(one.named_parameters(), mean.parameters(), strict=True):
        torch.testing.assert_close(2 * a, b, msg=name)
    assert torch.equal(mean.draws, one.draws)


def test_the_mean(generator, run, inputs, saved):
    folder, network, states = run
    for where in (folder, folder / "checkpoints/kimg000001.000.ckpt"):
        mean = average(network, inputs, run=str(where))
        for name, value in mean.state_dict().items():
            each = torch.stack([state[name] for state in states])
            torch.testing.assert_close(value, each.mean(0))
            assert (value <= each.amax(0)).all()
            assert (value >= each.amin(0)).all()
    assert torch.equal(network.start.weight, states[2]["start.weight"])
    image = mean(*inputs[0])
    assert image.isfinite().all()
    assert torch.equal(saved(generator[0], network, mean)(*inputs[0]), image)


def test_named_checkpoints_of_other_runs(run, inputs, tmp_path):
    folder, network, states = run
    other = save(tmp_path / "other/checkpoints/kimg000009.000.ckpt", network, prefix="autoencoder.decoder.")
    first = folder / "checkpoints/kimg000000.000.ckpt"
    mean = average(network, inputs, run=str(folder), checkpoints=[str(first), str(other.parent.parent)])
    torch.testing.assert_close(mean.start.weight, (states[0]["start.weight"] + states[2]["start.weight"]) / 2)


def test_refusals(run, inputs):
    folder, network, _ = run
    first = str(folder / "checkpoints/kimg000000.000.ckpt")
    with pytest.raises(UserError, match="has kept 1 checkpoints, expected two or more"):
        average(network, inputs, run=str(folder), checkpoints=[first])
    network.start = nn.Linear(3, 5)
    with pytest.raises(UserError, match="does not have the weights of this network: average a run first"):
        average(network, inputs, run=str(folder))
