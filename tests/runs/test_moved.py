"""Checkpoints of before load: one of commit d8b5a54 is kept beside this file, with what that commit drew of it."""

from __future__ import annotations

import json
import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trainer import load
from trainer.errors import UserError
from trainer.runs import allowlist, checkpoint, moved
from trainer.runs.export_files import SETTINGS, TRAINED, settings

OLD = Path(__file__).with_name("d8b5a54")
PROMPT = "a large yellow triangle in the bottom left on a grey background"


def test_an_old_checkpoint_draws_what_it_drew():
    drawn = np.concatenate([np.asarray(image) for image in load(OLD, device="cpu")(PROMPT, range(4)).images], axis=1)
    expected = np.asarray(Image.open(OLD / "drawn.png"))
    assert np.abs(drawn.astype(int) - expected).max() <= 1  # another CPU may round a level otherwise


def test_an_old_run_goes_on(command, tmp_path):
    shutil.copytree(OLD, tmp_path / "old")
    done = command(f"resume={tmp_path / 'old'}", "kimg=4.1", "gpus_per_node=0")
    assert done.code == 0, done.err
    newest = checkpoint.read(checkpoint.newest(tmp_path / "old"))
    assert (newest["images_seen"], newest["version"]) == (4100, moved.VERSION)
    assert newest["config"]["objective"]["schedule"]["_target_"] == "trainer.objectives.schedules.linear"


@pytest.mark.parametrize("name", moved.MOVED.values())
def test_what_has_moved_is_there(name):
    module, _, last = name.rpartition(".")
    assert hasattr(import_module(module), last) or import_module(name)


def test_the_names_of_today_stay():
    for name in (*moved.MOVED.values(), "torch.nn.Linear", "my.package.Part"):
        assert moved.today(name) == name
    assert moved.today("trainer.objectives.drawing.Drawing") == TRAINED
    assert moved.today("trainer.schedules.cosine") == "trainer.objectives.schedules.cosine"


def test_an_export_of_before_may_be_built():
    generator = {"_target_": "trainer.networks.dcgan.Generator"}
    half = {"_target_": "trainer.compression.runtime.half"}
    objective = {"_target_": "trainer.objectives.drawing.Drawing", "generator": generator}
    found = allowlist.check_config({"objective": objective, "runtime": [half]}, "config.json")
    assert found["objective"] == {"_target_": TRAINED, "generator": generator}
    assert found["runtime"] == [{"_target_": "trainer.sampling.runtime.half"}]


def test_a_checkpoint_of_tomorrow_is_refused(tmp_path):
    content = torch.load(OLD / "checkpoints/kimg000004.000.ckpt", weights_only=True)
    torch.save(content | {"version": moved.VERSION + 1}, tmp_path / "new.ckpt")
    with pytest.raises(UserError, match=rf"new.ckpt is of version {moved.VERSION + 1}, this code reads up to"):
        checkpoint.read(tmp_path / "new.ckpt")


def test_an_export_of_tomorrow_is_refused(tmp_path):
    (tmp_path / SETTINGS).write_text(json.dumps({"version": 99, "config": {}}))
    with pytest.raises(UserError, match=r"config\.json is of version 99"):
        settings(tmp_path / "model.safetensors")
