"""The verb that measures a trained run."""

import json

import pytest

from trainer import evaluate

TINY = ["data.source.num_images=60", "data.resolution=16", "data.batch_size=8", "text=scratch"]
NARROW = [f"objective.{n}.{k}=8" for n in ("generator", "discriminator") for k in ("base_channels", "max_channels")]


@pytest.fixture
def small_probe(monkeypatch):
    monkeypatch.setattr(evaluate, "NUM_PROBE_IMAGES", 256)
    monkeypatch.setattr(evaluate, "NUM_PROBE_TESTS", 64)


def test_evaluate_reads_attributes_back(command, tmp_path, small_probe):
    run, cache = tmp_path / "run", f"data.cache_dir={tmp_path / 'cache'}"  # a cache of its own: the probe is a poor one
    quick = ["kimg=0.016", "callbacks.frechet=null", "callbacks.samples=null", "logger.wandb=null", cache]
    assert command("experiment=cgan_shapes", *TINY, *NARROW, *quick, f"run_dir={run}").code == 0
    first = command(f"checkpoint={run}", "num_images=24", main=evaluate.main)
    assert first.code == 0, first.err
    metrics = json.loads((run / "metrics.json").read_text())["attributes"]
    assert list(metrics["accuracy"]) == ["colour", "shape", "size", "position", "background"]
    assert all(0 <= value <= 1 for value in metrics["accuracy"].values())
    assert metrics["num_images"] == 24
    again = command(f"checkpoint={run}", "num_images=24", main=evaluate.main)
    assert again.out == first.out  # the probe is kept, the samples are the same
    assert "training the probe" in first.err
    assert "training the probe" not in again.err


def test_evaluate_says_what_it_needs(command, trained):
    result = command(f"checkpoint={trained.parent / 'none'}", main=evaluate.main)
    assert result.code == 2
    assert "does not exist" in result.err


def test_labels_follow_the_vocabulary():
    thing = {"colour": "orange", "shape": "circle", "size": "large", "position": "top"}
    assert evaluate.label({"background": "black", "objects": [thing]}) == [1, 0, 1, 2, 2]
