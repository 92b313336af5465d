"""The newest runs, wherever they lie in a folder of runs."""

from __future__ import annotations

import os

import pytest

from trainer.errors import UserError
from trainer.runs.listing import newest


def test_the_newest_are_found_in_sweeps_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"outputs has 0 runs with a checkpoint, 1 needed here: train with"):
        newest()
    for age, name in enumerate(("sweep/now/0", "cgan/later", "cgan/latest", "cgan/unsaved")):
        (tmp_path / "outputs" / name / "checkpoints").mkdir(parents=True)
        (tmp_path / "outputs" / name / "config.yaml").touch()
        os.utime(tmp_path / "outputs" / name / "config.yaml", (age, age))
        if name != "cgan/unsaved":
            (tmp_path / "outputs" / name / "checkpoints/kimg000001.000.ckpt").touch()
    assert [str(run) for run in newest(2)] == ["outputs/cgan/later", "outputs/cgan/latest"]
    assert newest(1, "outputs/sweep")[0].name == "0"
    assert newest(1, "outputs/cgan/later")[0].name == "later"
    with pytest.raises(UserError, match="3 runs with a checkpoint, 4 needed here"):
        newest(4)
