"""A run as one plain file of weights, from a whole checkpoint or from parts, that samples the same."""

import json

import pytest
import torch
from safetensors.torch import load_file

from trainer import checkpoint, load
from trainer.errors import UserError
from trainer.export import main

NEWEST = "kimg000001.500.ckpt"


def in_parts(path, num_ranks=2):
    """Rewrites a checkpoint as the ranks of a strategy that splits everything would have written it."""
    saved = torch.load(path, weights_only=True)
    path.unlink()
    path.mkdir()
    for rank in range(num_ranks):
        mine = dict(saved)
        for kind in ("state_dict", "ema"):
            mine[kind] = {}
            for key, whole in saved[kind].items():
                size = -(-whole.numel() // num_ranks)
                part = whole.reshape(-1)[rank * size : (rank + 1) * size].clone()
                mine[kind][key] = {"part": part, "start": rank * size, "shape": list(whole.shape)}
        torch.save(mine, path / checkpoint.rank_file(rank, num_ranks))


@pytest.mark.parametrize("parts", [False, True])
def test_an_export_samples_as_its_run(command, trained, tmp_path, parts):
    expected = load(trained)("a red apple", seeds=range(3)).pixels
    if parts:
        in_parts(trained / "checkpoints" / NEWEST)
        assert torch.equal(load(trained)("a red apple", seeds=range(3)).pixels, expected)
    out = tmp_path / "export"
    result = command(f"checkpoint={trained}", f"out={out}", main=main)
    assert result.code == 0, result.err
    assert NEWEST in result.out
    assert f"checkpoint={out}" in result.out
    assert torch.equal(load(out)("a red apple", seeds=range(3)).pixels, expected)
    weights = load_file(out / "model.safetensors")
    assert weights.keys() == {f"generator.{key}" for key in load(trained).objective.generator.state_dict()}
    assert json.loads((out / "config.json").read_text())["images_seen"] == 1500


@pytest.mark.parametrize("harm", ["missing", "cut"])
def test_parts_that_are_not_whole_are_passed_over(trained, capsys, harm):
    folder = trained / "checkpoints" / NEWEST
    in_parts(folder)
    victim = folder / checkpoint.rank_file(1, 2)
    victim.unlink() if harm == "missing" else victim.write_bytes(victim.read_bytes()[:-50])
    assert checkpoint.newest(trained).name == "kimg000000.500.ckpt"
    assert NEWEST in capsys.readouterr().err
    with pytest.raises(UserError, match="cut short"):
        checkpoint.newest(folder)


def test_a_folder_that_cannot_be_made_is_one_line(command, trained, tmp_path):
    (tmp_path / "file").write_text("")
    result = command(f"checkpoint={trained}", f"out={tmp_path / 'file'}", main=main)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "name a folder that can be written" in result.err


def test_an_export_is_not_to_be_resumed(command, trained, tmp_path):
    command(f"checkpoint={trained}", f"out={tmp_path / 'export'}", main=main)
    result = command(f"resume={tmp_path / 'export'}")
    assert result.code == 2
    assert "expected a run folder" in result.err
