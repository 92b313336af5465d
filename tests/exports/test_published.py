"""What leaves with an export: nothing of the disk that it was made on, and no markup of a configuration."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from trainer.exports import card
from trainer.runs.export_files import without_paths


@pytest.fixture
def config(tmp_path):
    return {
        "name": "small",
        "data": {
            "source": {"path": f"{tmp_path}/pictures", "x": ["/a/b", "c/d"]},
            "cache_dir": "/scratch",
            "resolution": 8,
        },
        "text": {"encoder": {"name": "bert", "path": None, "max_tokens": 5, "cache_dir": "~/cache"}},
        "teacher": f"{tmp_path}/outputs/cgan/2026-01-31_12-00-00/checkpoints/kimg000001.500.ckpt",
        "matcher": f"{tmp_path}/outputs/matching/2026-01-30_12-00-00",
    }


def test_paths_are_cut_to_names(config, tmp_path, capsys):
    found = without_paths(config)
    assert str(tmp_path) not in json.dumps(found)
    assert found["data"]["source"] == {"path": "pictures", "x": ["b", "c/d"]}
    assert found["data"]["cache_dir"] is None and found["text"]["encoder"]["cache_dir"] is None
    assert found["teacher"] == "2026-01-31_12-00-00" and found["matcher"] == "2026-01-30_12-00-00"
    assert capsys.readouterr().err == ""
    config["text"]["encoder"]["path"] = "/models/bert"
    assert without_paths(config)["text"]["encoder"]["path"] == "/models/bert"
    assert "text.encoder.path=/models/bert, which others lack" in capsys.readouterr().err


def test_a_card_has_no_markup_of_a_configuration(config):
    evil = "x\n\n<script>alert(1)</script> ![x](http://other/a.png) | # y"
    config["name"] = config["text"]["encoder"]["path"] = evil
    config["data"]["source"] = {"_target_": "trainer.data.folder.Folder", "path": evil}
    content = str(card.model_card({"config": config, "images_seen": 1, "global_step": 1}))
    assert "<script" not in content.replace("\\<", "") and "![x]" not in content
    assert "\n# y" not in content and "\n\nx\n" not in content


def test_an_export_and_its_pictures_name_no_folder(trained, tmp_path, command):
    from trainer.export import main
    from trainer.sample import main as sample

    for file in (trained / "checkpoints").iterdir():
        content = torch.load(file, weights_only=True)
        content["config"]["data"] = {"source": {"path": str(tmp_path / "pictures")}, "resolution": 16}
        torch.save(content, file)
    out = tmp_path / "exported"
    done = command(f"checkpoint={trained}", f"out={out}", main=main)
    assert done.code == 0, done.err
    texts = [(out / name).read_text() for name in ("config.json", "README.md")]
    assert not any(str(tmp_path) in text for text in texts)
    done = command(f"checkpoint={trained}", "prompts=[a]", f"out={tmp_path / 'drawn'}", main=sample)
    assert done.code == 0, done.err
    for file in (tmp_path / "drawn").glob("*.png"):
        assert str(tmp_path).encode() not in file.read_bytes()
        assert Image.open(file).info["checkpoint"] == "2026-01-31_12-00-00/kimg000001.500.ckpt"
