"""A run as one plain file of weights, from a whole checkpoint or from parts, that samples the same."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from trainer import load
from trainer.errors import UserError
from trainer.export import main
from trainer.runs import checkpoint, checkpoint_files
from trainer.sample import main as sample

NEWEST = "kimg000001.500.ckpt"


def in_parts(path, num_ranks=2):
    """Rewrites a checkpoint as the ranks of a strategy that splits everything would have written it."""
    content = torch.load(path, weights_only=True)
    path.unlink()
    path.mkdir()
    for rank in range(num_ranks):
        mine = dict(content)
        for kind in ("state_dict", "ema"):
            mine[kind] = {}
            for key, whole in content[kind].items():
                size = -(-whole.numel() // num_ranks)
                part = whole.reshape(-1)[rank * size : (rank + 1) * size].clone()
                mine[kind][key] = {"part": part, "start": rank * size, "shape": list(whole.shape)}
        torch.save(mine, path / checkpoint_files.rank_file(rank, num_ranks))


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


@pytest.mark.parametrize("harm", ["missing", "cut", "of another save", "one more"])
def test_parts_that_are_not_whole_are_passed_over(trained, capsys, harm):
    folder = trained / "checkpoints" / NEWEST
    in_parts(folder)
    victim = folder / checkpoint_files.rank_file(1, 2)
    if harm == "missing":
        victim.unlink()
    elif harm == "cut":
        victim.write_bytes(victim.read_bytes()[:-50])
    elif harm == "one more":
        shutil.copy(victim, folder / checkpoint_files.rank_file(2, 2))
    else:
        torch.save(torch.load(victim) | {"save": "another"}, victim)
    assert checkpoint.newest(trained).name == "kimg000000.500.ckpt"
    assert NEWEST in capsys.readouterr().err
    reason = {"missing": "has 1 of 2 parts", "cut": "cut short", "one more": "has 3 of 2", "of another save": "of diff"}
    with pytest.raises(UserError, match=reason[harm]):
        checkpoint.newest(folder)


def test_a_part_of_an_older_step_is_none_of_this_checkpoint(trained):
    """Those of before have no id of the save, but a step."""
    folder = trained / "checkpoints" / NEWEST
    in_parts(folder)
    victim = folder / checkpoint_files.rank_file(1, 2)
    torch.save(torch.load(victim) | {"global_step": 7}, victim)
    with pytest.raises(UserError, match="parts of different saves"):
        checkpoint.read(folder)


@pytest.mark.parametrize("harm", ["cut", "bit", "no config", "broken config"])
def test_a_damaged_export_is_one_line(command, trained, tmp_path, harm):
    out = tmp_path / "export"
    assert command(f"checkpoint={trained}", f"out={out}", main=main).code == 0
    weights = out / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-9] ^= 4
    if harm in ("cut", "bit"):
        weights.write_bytes(content[:-64] if harm == "cut" else content)
    elif harm == "no config":
        (out / "config.json").unlink()
    else:
        (out / "config.json").write_text("{")
    result = command(f"checkpoint={out}", "prompts=[a red apple]", main=sample)
    assert (result.code, result.err.count("\n")) == (2, 1), result.err
    assert str(weights) in result.err


def test_an_export_of_before_has_no_checksum_and_loads(command, trained, tmp_path):
    out = tmp_path / "export"
    command(f"checkpoint={trained}", f"out={out}", main=main)
    settings = json.loads((out / "config.json").read_text())
    assert settings.pop("sha256").keys() == {"model.safetensors"}
    (out / "config.json").write_text(json.dumps(settings))
    assert load(out).step == 30


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
