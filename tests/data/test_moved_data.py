"""A run knows its data by what they are, not by where they lie: moved ones go on, changed ones are told."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from trainer.evaluate import main as evaluate
from trainer.runs import checkpoint

SMALL = [
    *("experiment=cgan", "data=folder", "data.resolution=16", "data.batch_size=8", "data.heldout=0.3", "kimg=0.016"),
    *("text=scratch", "text.width=16", "text.network.num_layers=1", "text.encoder.vocabulary=256"),
    *("objective.generator.base_channels=8", "objective.generator.max_channels=8"),
    *("objective.discriminator.base_channels=8", "objective.discriminator.max_channels=8"),
    *("callbacks.evaluation=null", "callbacks.samples=null", "logger.wandb=null", "run_dir=run"),
]


def pictures(folder, numbers):
    folder.mkdir(exist_ok=True)
    for number in numbers:
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
        (folder / f"{number:02}.txt").write_text(f"thing {number}")


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory):
    from unittest.mock import patch

    from trainer.__main__ import main

    folder = tmp_path_factory.mktemp("moved")
    pictures(folder / "pics", range(11))
    with (
        patch("sys.argv", ["trainer", *SMALL, "data.source.path=pics"]),
        pytest.MonkeyPatch.context() as env,
    ):
        env.chdir(folder)
        env.setenv("TRAINER_RUN_DIR", "")
        env.delenv("TRAINER_RUN_DIR")
        main()
        env.delenv("TRAINER_RUN_DIR", raising=False)
    return folder


@pytest.fixture
def folder(trained_once, tmp_path, monkeypatch):
    shutil.copytree(trained_once, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_relative_path_is_kept_absolute(trained_once):
    kept = checkpoint.read(checkpoint.newest(trained_once / "run"))
    assert kept["config"]["data"]["source"]["path"] == str(trained_once / "pics")
    assert str(trained_once / "pics") in (trained_once / "run" / "composed.yaml").read_text()
    assert kept["DataModule"]["images"] == 11


def test_data_that_moved_go_on(folder, command):
    (folder / "pics").rename(folder / "elsewhere")
    result = command("resume=run", "data.source.path=elsewhere", "kimg=0.032")
    assert result.code == 0, result.err
    kept = checkpoint.read(checkpoint.newest("run"))
    assert (kept["images_seen"], kept["config"]["data"]["source"]["path"]) == (32, str(folder / "elsewhere"))


@pytest.mark.parametrize("change", ["added", "edited", "caption"])
def test_data_that_changed_are_refused_with_what_did(folder, command, change):
    (folder / "pics").rename(folder / "elsewhere")
    if change == "added":
        pictures(folder / "elsewhere", range(11, 18))
    elif change == "edited":
        Image.new("RGB", (16, 16)).save(folder / "elsewhere" / "03.png")
    else:
        (folder / "elsewhere" / "03.txt").write_text("thing 2")
    before = sorted(path.name for path in (folder / "run" / "checkpoints").iterdir())
    result = command("resume=run", "data.source.path=elsewhere", "kimg=0.032")
    said = {"added": "11 -> 18 images", "edited": "other pixels", "caption": "11 -> 10 captions"}[change]
    assert result.code == 2
    assert said in result.err
    assert sorted(path.name for path in (folder / "run" / "checkpoints").iterdir()) == before


def test_a_checkpoint_of_before_knows_no_data_and_resumes(folder, command):
    path = checkpoint.newest("run")
    content = torch.load(path)
    del content["DataModule"]
    content["config"]["data"]["source"]["path"] = "pics"  # relative, as it was kept
    torch.save(content, path)
    result = command("resume=run", "kimg=0.032", f"data.source.path={folder / 'pics'}")
    assert result.code == 0, result.err


def test_evaluate_takes_the_place_and_tells_a_change(folder, command):
    (folder / "pics").rename(folder / "elsewhere")
    given = ["checkpoint=run", "num_images=8", "num_references=8", "metrics=[fd]"]
    result = command(*given, "data.source.path=elsewhere", main=evaluate)
    assert (result.code, "have changed" in result.err) == (0, False), result.err
    pictures(folder / "elsewhere", [11])
    result = command(*given, "data.source.path=elsewhere", main=evaluate)
    assert (result.code, "11 -> 12 images" in result.err) == (0, True), result.err


def test_data_without_a_place_refuse_one(trained, command):
    content = torch.load(checkpoint.newest(trained))
    content["config"]["data"] = {"source": {"_target_": "trainer.data.emoji.Emoji"}}
    torch.save(content, checkpoint.newest(trained))
    result = command(f"checkpoint={trained}", "data.source.path=x", main=evaluate)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "data.source.path=x: the run's data are no files" in result.err
