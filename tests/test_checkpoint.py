"""From run folders and damaged files to objectives."""

import pytest
import torch

from trainer import checkpoint
from trainer.errors import UserError

NEWEST = "kimg000001.500.ckpt"


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def test_newest_of_run_folder_checkpoints_folder_and_file(trained):
    folder = trained / "checkpoints"
    assert checkpoint.newest(trained) == folder / NEWEST
    assert checkpoint.newest(str(folder)) == folder / NEWEST
    assert checkpoint.newest(folder / "kimg000000.500.ckpt") == folder / "kimg000000.500.ckpt"


@pytest.mark.parametrize(
    "damage", [cut, lambda p: p.write_bytes(b""), lambda p: p.write_bytes(bytes(p.stat().st_size))]
)
def test_a_damaged_newest_is_passed_over_and_told(trained, capsys, damage):
    damage(trained / "checkpoints" / NEWEST)
    assert checkpoint.newest(trained).name == "kimg000000.500.ckpt"
    assert NEWEST in capsys.readouterr().err
    with pytest.raises(UserError, match="cut short"):
        checkpoint.newest(trained / "checkpoints" / NEWEST)


def test_an_unfinished_write_is_no_checkpoint(trained):
    (trained / "checkpoints" / f".{NEWEST}.1.tmp").write_bytes(b"x")
    assert checkpoint.newest(trained).name == NEWEST


def test_missing_paths_name_the_newest_run_nearby(trained):
    with pytest.raises(UserError, match=rf"does not exist; the newest run there is {trained}"):
        checkpoint.newest(trained.parent / "2026-01-01")
    with pytest.raises(UserError, match=rf"no whole checkpoint .*; the newest run there is {trained}"):
        checkpoint.newest(trained.parent)
    for file in (trained / "checkpoints").iterdir():
        file.unlink()
    with pytest.raises(UserError, match=r"no whole checkpoint .*: give the folder"):
        checkpoint.newest(trained)


def test_read_refuses_what_is_no_checkpoint(trained, tmp_path):
    file = trained / "checkpoints" / NEWEST
    with pytest.raises(UserError, match="does not exist"):
        checkpoint.read(tmp_path / "none.ckpt")
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="has no config"):
        checkpoint.read(tmp_path / "other.ckpt")
    torch.save({"code": pytest.raises}, tmp_path / "code.ckpt")
    with pytest.raises(UserError, match="holds code"):
        checkpoint.read(tmp_path / "code.ckpt")
    cut(file)
    with pytest.raises(UserError, match="damaged"):
        checkpoint.read(file)


def test_images_seen(trained):
    assert checkpoint.images_seen(checkpoint.newest(trained)) == 1500


def test_load_gives_the_averaged_weights_ready_to_sample(trained):
    objective = checkpoint.load(trained)
    content = torch.load(checkpoint.newest(trained))
    for key, value in objective.state_dict().items():
        assert torch.equal(value, content["ema"].get(key, content["state_dict"][key]))
    assert any(not torch.equal(value, content["state_dict"][key]) for key, value in content["ema"].items())
    assert not objective.ema  # they are in; a sampler must not swap the others back
    assert not any(module.training for module in objective.modules())
    assert not any(parameter.requires_grad for parameter in objective.parameters())
    assert objective.images_seen == 1500
    assert objective.config["name"] == "small"


def test_weights_or_parts_that_do_not_fit_are_told(trained):
    file = trained / "checkpoints" / NEWEST
    content = torch.load(file)
    content["state_dict"]["generator.image.bias"] = torch.zeros(4)
    torch.save(content, file)
    with pytest.raises(UserError, match=r"generator\.image\.bias"):
        checkpoint.load(file)
    content["config"]["objective"]["_target_"] = "trainer.objectives.gan.Gone"
    torch.save(content, file)
    with pytest.raises(UserError, match=r"trainer\.objectives\.gan\.Gone"):
        checkpoint.load(file)


def test_a_later_change_of_the_conf_folder_does_not_matter(trained, tmp_path, monkeypatch):
    (tmp_path / "conf" / "objective").mkdir(parents=True)
    (tmp_path / "conf" / "objective" / "gan.yaml").write_text("_target_: nothing\n")
    monkeypatch.chdir(tmp_path)
    assert checkpoint.load(trained).latent_channels == 8
