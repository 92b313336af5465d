import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from trainer.backbones import effnet_lite0
from trainer.callbacks.ema import EMA
from trainer.callbacks.frechet import Frechet
from trainer.errors import UserError
from trainer.loggers.csv import CSV
from trainer.metrics.frechet import frechet_distance, mean_and_covariance, moments, square_root
from trainer.sampling import Sampler

WORKER = Path(__file__).with_name("frechet_worker.py")


@pytest.fixture
def data(data, tmp_path):
    data.cache_dir = str(tmp_path / "cache")
    return data


@pytest.fixture
def small_network(monkeypatch):
    """Where the features do not matter: a few channel means. The list: how many images each time."""
    measured = []

    class Network(torch.nn.Module):
        def __init__(self, resolution):
            super().__init__()
            self.resolution = resolution

        def features(self, images):
            measured.append(len(images))
            return images.float().mean(2)[:, 0] + self.resolution

    monkeypatch.setattr(effnet_lite0, "load", Network)
    monkeypatch.setattr(effnet_lite0, "NUM_FEATURES", 8)
    return measured


def frechet(**options):
    return Frechet(**({"num_images": 6, "feature_resolution": 32} | options))


def test_distance_of_ema_samples_at_even_points(objective, data, make_trainer, tmp_path, capsys):
    callbacks = [EMA(halflife_kimg=0.1), frechet(times=2)]
    trainer = make_trainer(callbacks, max_steps=5, logger=CSV(str(tmp_path / "metrics.csv")))
    trainer.fit(objective, data)
    with open(tmp_path / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(int(row["step"]), float(row["progress/kimg"])) for row in rows] == [(3, 0.012), (5, 0.02)]

    captions = [data.heldout.captions[i] for i in (0, 0, 1, 2, 2, 3)]  # 4 spread over 6
    samples = Sampler(objective, data.text)(captions, range(6))
    references = torch.from_numpy(data.heldout.images).permute(0, 3, 1, 2)
    network = effnet_lite0.load(32)
    mean, covariance = mean_and_covariance(moments(network.features(references)))
    root = square_root(covariance)

    def distance(images):
        return frechet_distance(mean, covariance, *mean_and_covariance(moments(network.features(images))), root)

    expected = distance(samples)
    assert float(trainer.callback_metrics["val/fd_effnet"]) == pytest.approx(expected, rel=1e-4)
    assert float(rows[1]["val/fd_effnet"]) == pytest.approx(expected, rel=1e-4)
    objective.ema = {}
    live = Sampler(objective, data.text)(captions, range(6))
    assert abs(distance(live) - expected) > 1e-4 * expected  # so it was the EMA weights that sampled
    lines = [line for line in capsys.readouterr().out.splitlines() if "fd_effnet" in line]
    assert len(lines) == 2 and lines[1] == f"kimg 0.0  val/fd_effnet {expected:.2f}  6 samples"


def test_training_goes_on_as_without_it(objective, data, make_trainer, small_network):
    make_trainer([], max_steps=4).fit(objective, data)
    again = type(objective)()
    make_trainer([frechet(times=4)], max_steps=4).fit(again, data)
    assert again.training and all(map(torch.equal, objective.state_dict().values(), again.state_dict().values()))


def test_the_reference_is_kept_for_the_same_pixels_only(objective, data, make_trainer, small_network):
    measured = small_network

    def value(**options):
        measured.clear()
        trainer = make_trainer([frechet(times=1, **options)], max_steps=1)
        trainer.fit(type(objective)(), data)
        return float(trainer.callback_metrics["val/fd_effnet"])

    first = value()
    assert measured == [4, 6]
    assert value() == first and measured == [6]
    value(feature_resolution=40)
    assert measured == [4, 6]
    value(max_references=3)
    assert measured == [3, 6]
    data.heldout.images = data.heldout.images.copy()
    data.heldout.images[3, 0, 0, 0] ^= 128
    value()
    assert measured == [4, 6]
    for file in Path(data.cache_dir).rglob("*.npy"):
        file.write_bytes(b"torn")
    value()
    assert measured == [4, 6]
    assert len(list(Path(data.cache_dir).rglob("*"))) == 5  # the folder, four references, nothing temporary


def test_a_cache_that_cannot_be_written_costs_time_only(objective, data, make_trainer, small_network, capsys):
    Path(data.cache_dir).write_text("not a folder")
    trainer = make_trainer([frechet(times=1)], max_steps=1)
    trainer.fit(objective, data)
    assert "val/fd_effnet" in trainer.callback_metrics
    assert "the reference of val/fd_effnet is not kept" in capsys.readouterr().err


def test_off_without_held_out_images(objective, data, make_trainer, capsys):
    data.heldout = SimpleNamespace(images=np.zeros((0, 8, 8, 3), np.uint8), captions=[])
    trainer = make_trainer([frechet()], max_steps=2)
    trainer.fit(objective, data)
    assert "val/fd_effnet" not in trainer.callback_metrics
    assert "val/fd_effnet is off" in capsys.readouterr().err


def test_absent_weights_stop_the_run_before_its_first_step(objective, data, make_trainer, monkeypatch):
    monkeypatch.setattr(effnet_lite0, "_PACKAGE", "no_such_package")
    trainer = make_trainer([frechet()], max_steps=2)
    with pytest.raises(UserError, match="not installed: pip install"):
        trainer.fit(objective, data)
    assert trainer.global_step == 0


@pytest.mark.parametrize("wrong", [{"num_images": 1}, {"times": -1}, {"max_references": 0}, {"feature_resolution": 8}])
def test_wrong_options(wrong):
    with pytest.raises(UserError, match=r"callbacks\.frechet"):
        Frechet(**wrong)


@pytest.mark.parametrize(
    "strategy",
    ["ddp", *(pytest.param(name, marks=pytest.mark.slow) for name in ("fsdp", "zero3"))],  # one rank draws more often
)
def test_two_ranks_get_the_value_of_one(tmp_path, strategy):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    for ranks in (1, 2):
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"] if ranks > 1 else []
        command = [sys.executable, *launcher, str(WORKER), str(tmp_path), str(ranks), strategy]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
    names = ("rank0-of-1", "rank0-of-2", "rank1-of-2")
    alone, *both = (json.loads((tmp_path / f"{name}.json").read_text()) for name in names)
    assert both[0] == both[1] == pytest.approx(alone, rel=1e-5)
    stored = [np.load(next((tmp_path / f"cache-{ranks}").rglob("*.npy"))) for ranks in (1, 2)]
    assert stored[1][0, 0] == 7
    np.testing.assert_allclose(*stored, rtol=1e-5, atol=1e-5)
