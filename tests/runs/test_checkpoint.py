"""From run folders and damaged files to objectives."""

import os
import struct
import zipfile
from pathlib import Path

import pytest
import torch

from trainer.errors import UserError
from trainer.runs import checkpoint, checkpoint_files, run_folder

NEWEST = "kimg000001.500.ckpt"


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def test_newest_of_run_folder_checkpoints_folder_and_file(trained):
    folder = trained / "checkpoints"
    assert checkpoint.newest(trained) == folder / NEWEST
    assert checkpoint.newest(str(folder)) == folder / NEWEST
    assert checkpoint.newest(folder / "kimg000000.500.ckpt") == folder / "kimg000000.500.ckpt"


def record_of(path, name):
    """Where the bytes of a record of torch's zip begin and end."""
    with zipfile.ZipFile(path) as archive:
        info = next(info for info in archive.infolist() if info.filename.endswith(name))
    header = path.read_bytes()[info.header_offset : info.header_offset + 30]
    start = info.header_offset + 30 + sum(struct.unpack("<HH", header[26:]))
    return start, start + info.file_size


def overwrite(path, place, content):
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(content)


def flip(path, place, bit=1):
    overwrite(path, place, bytes([path.read_bytes()[place] ^ bit]))


DAMAGES = {
    "cut": cut,
    "cut to half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "second half zeros": lambda path: overwrite(path, path.stat().st_size // 2, bytes(path.stat().st_size // 2)),
    "a bit of a weight": lambda path: flip(path, record_of(path, "/data/7")[0] + 5),
    "the last bit of a weight": lambda path: flip(path, record_of(path, "/data/0")[1] - 1, 128),
    "a byte of data.pkl": lambda path: flip(path, sum(record_of(path, "/data.pkl")) // 2, 64),
    "zeros in a weight": lambda path: overwrite(path, record_of(path, "/data/7")[0], bytes(64)),
    "no checkpoint": lambda path: torch.save({"weights": torch.zeros(1)}, path),
    "another zip": lambda path: zipfile.ZipFile(path, "w").writestr("a.txt", "a"),
    "text": lambda path: path.write_text("<html>404</html>"),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_is_passed_over_and_told(trained, capsys, damage):
    DAMAGES[damage](trained / "checkpoints" / NEWEST)
    assert checkpoint.newest(trained).name == "kimg000000.500.ckpt"
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert NEWEST in said
    with pytest.raises(UserError, match=rf"{NEWEST} .*; whole beside it: kimg000000\.500\.ckpt$"):
        checkpoint.newest(trained / "checkpoints" / NEWEST)
    assert checkpoint.load(trained).images_seen == 500


def test_a_file_is_read_for_its_checksums_once(trained, monkeypatch):
    checkpoint.newest(trained)
    monkeypatch.setattr(checkpoint_files, "_wrong_archive", lambda file: "is read again")
    assert checkpoint.newest(trained).name == NEWEST
    os.utime(trained / "checkpoints" / NEWEST, ns=(0, 0))
    with pytest.raises(UserError, match="is read again"):
        checkpoint.read(trained / "checkpoints" / NEWEST)


def test_order_is_of_numbers(tmp_path):
    """Beyond 10^9 images a name has a digit more and no longer sorts as text."""
    images = [999_999_920, 1_000_000_160, 12_800, 10_000_000, 9_999_999]
    for each in images:
        (tmp_path / f"{checkpoint_files.kimg_name(each)}.ckpt").touch()
    (tmp_path / "best.ckpt").touch()
    (tmp_path / "kimg_kept.ckpt").touch()
    assert [checkpoint_files.images_of(path) for path in checkpoint_files.in_order(tmp_path)] == sorted(images)
    assert checkpoint_files.in_order(tmp_path)[-1].name == "kimg1000000.160.ckpt"
    assert checkpoint_files.kimg_name(12_800) == "kimg000012.800"


def test_what_vanishes_under_a_reader_is_not_the_end(trained, monkeypatch):
    """A run that is under way replaces its checkpoints."""
    newer, listed = trained / "checkpoints" / "kimg000002.000.ckpt", checkpoint._newest_first

    def first_listing(folder):
        found = listed(folder)
        if not newer.exists():
            (folder / NEWEST).rename(newer)
            (folder / "kimg000000.500.ckpt").unlink()
        return found

    monkeypatch.setattr(checkpoint, "_newest_first", first_listing)
    assert checkpoint.newest(trained) == newer


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


def test_a_model_in_the_box_is_there_by_its_name(trained, command, tmp_path, monkeypatch, capsys):
    """What is made of it goes to outputs/NAME; a path of that name comes first."""
    from trainer.export import main as export
    from trainer.sample import main as sample

    box = tmp_path / "box"
    done = command(f"checkpoint={trained}", f"out={box / 'things'}", "formats=[safetensors]", main=export)
    assert done.code == 0, done.err
    monkeypatch.setattr(run_folder, "BOX", box)
    before = sorted(box.rglob("*"))
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    done = command("checkpoint=things", "prompts=[a red apple]", main=sample)
    assert done.code == 0, done.err
    assert [*(empty / "outputs" / "things" / "samples").glob("*/grid.png")]
    assert run_folder.of(checkpoint.newest("things")) == Path("outputs/things")
    assert sorted(box.rglob("*")) == before, "nothing is written into the package"
    with pytest.raises(UserError, match=r"checkpoint thing does not exist.* comes with this package: things$"):
        checkpoint.newest("thing")
    trained.rename(empty / "things")
    capsys.readouterr()
    assert checkpoint.newest("things").name == checkpoint.newest("things").name == NEWEST
    assert capsys.readouterr().err == (
        "checkpoint=things: what is here by this name, and not the model that comes with the package\n"
    )


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
    with pytest.raises(UserError, match="cut short"):
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


@pytest.mark.parametrize("verb", ["sample", "export", "average", "report"])
def test_every_verb_takes_the_newest_whole_one(command, trained, tmp_path, verb):
    from trainer.compression.average import checkpoints_of
    from trainer.export import main as export
    from trainer.report.run import Run
    from trainer.sample import main as sample

    path = trained / "checkpoints" / NEWEST
    flip(path, record_of(path, "/data/7")[0])
    if verb == "average":
        assert [path.name for path in checkpoints_of(trained)] == ["kimg000000.500.ckpt"]
    elif verb == "report":
        cut(path)
        (trained / "config.yaml").write_text("name: small\n")
        assert Run(trained).checkpoint.name == "kimg000000.500.ckpt"
    else:
        given = ["prompts=[a red apple]"] if verb == "sample" else ["formats=[safetensors]"]
        result = command(
            f"checkpoint={trained}", f"out={tmp_path / 'out'}", *given, main=sample if verb == "sample" else export
        )
        assert (result.code, result.err.count("taking an older one")) == (0, 1), result.err
