"""What is said to be installed is ours, and not a stranger's package of the same import name."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.process import distribution

ROOT = Path(__file__).parents[2]
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_the_name_is_that_of_the_project():
    assert f'\nname = "{distribution.NAME}"' in PYPROJECT
    assert distribution.NAME != "trainer"  # that is another project on PyPI


@pytest.mark.parametrize("extra", ["dashboard", "data", "deepspeed", "export", "plot", "remote"])
def test_the_extras_that_messages_name(extra, monkeypatch):
    assert f"\n{extra} = [" in PYPROJECT
    assert distribution.install(extra) == f"pip install -e '.[{extra}]'"
    monkeypatch.setattr(distribution, "__file__", "/site-packages/trainer/process/distribution.py")
    assert distribution.install(extra) == f"pip install 'text-image-trainer[{extra}]'"


def test_no_message_names_another_distribution():
    for file in (ROOT / "trainer").rglob("*.py"):
        assert "trainer[" not in file.read_text(encoding="utf-8") or file.name == "distribution.py", file
