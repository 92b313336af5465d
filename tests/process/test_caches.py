"""One place for caches, for every reader of TRAINER_CACHE."""

import os
from pathlib import Path

import pytest

from trainer.data.module import default_cache_dir
from trainer.pretrained import weights
from trainer.process import caches
from trainer.text.cache import cache_root


@pytest.mark.parametrize("value", [None, "", "/somewhere", "~/place"])
def test_all_read_it_alike(monkeypatch, tmp_path, value):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TRAINER_CACHE") if value is None else monkeypatch.setenv("TRAINER_CACHE", value)
    expected = Path(os.path.expanduser(value or "~/.cache/trainer"))
    places = [default_cache_dir(), cache_root(None), weights.folder()]
    assert places == [expected / name for name in ("data", "text", "weights")]


def test_a_user_without_a_home(monkeypatch, capsys):
    monkeypatch.delenv("TRAINER_CACHE", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as without HOME and passwd entry
    caches._homeless.cache_clear()
    assert caches.root().name == f"trainer-cache-{os.getuid()}"
    assert "TRAINER_CACHE=FOLDER" in capsys.readouterr().err
