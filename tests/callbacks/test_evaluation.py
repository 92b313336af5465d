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

from trainer.backbones import effnet_lite
from trainer.callbacks.ema import EMA
from trainer.callbacks.evaluation import Evaluation
from trainer.errors import UserError
from trainer.loggers.csv import CSV
from trainer.metrics.frechet import frechet_distance, mean_and_covariance, moments, square_root
from trainer.runs import results
from trainer.sampling.sampler import Sampler

WORKER = Path(__file__).with_name("evaluation_worker.py")


@pytest.fixture
def data(data, tmp_path):
    data.cache_dir = str(tmp_path / "cache")
    return data


class Means(torch.nn.Module):
    """Where the features do not matter: a few channel means. measured: how many images each time."""

    name, sha256, width = "means", "0" * 64, 8

    def __init__(self, shift=0):
        super().__init__()
        self.shift, self.resizer, self.measured = shift, f"shift {shift}", []

    def features(self, images):
        self.measured.append(len(images))
        return images.float().mean(2)[:, 0] + self.shift


def evaluation(backbone=None, **options):
    return Evaluation(**({"backbone": backbone or Means(), "num_images": 6} | options))


def test_samples_in_bf16_are_other_figures(objective, data, make_trainer):
    for precision in (None, "bfloat16"):
        trainer = make_trainer([EMA(halflife_kimg=0.1), evaluation(times=1, precision=precision)], max_steps=1)
        trainer.fit(objective, data)
        (figure,) = results.read(trainer.default_root_dir)[-1:]
        assert figure.protocol.get("precision") == precision
    with pytest.raises(UserError, match="precision=half: expected bfloat16"):
        evaluation(precision="half")


def test_distance_of_ema_samples_at_even_points(objective, data, make_trainer, tmp_path, capsys):
    callbacks = [EMA(halflife_kimg=0.1), evaluation(effnet_lite.load(32), times=2)]
    trainer = make_trainer(callbacks, max_steps=5, logger=CSV(str(tmp_path / "metrics.csv")))
    trainer.fit(objective, data)
    with open(tmp_path / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(int(row["step"]), float(row["progress/kimg"])) for row in rows] == [(3, 0.012), (5, 0.02)]

    captions = [data.heldout.captions[i] for i in (0, 0, 1, 2, 2, 3)]  # 4 spread over 6
    samples = Sampler(objective, data.text)(captions, range(6))
    references = torch.from_numpy(data.heldout.images).permute(0, 3, 1, 2)
    network = effnet_lite.load(32)
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
    assert len(lines) == 2 and lines[1].startswith("kimg 0.0  val/fd_effnet ") and lines[1].endswith("  6 samples")
    (figure,) = results.read(tmp_path)  # the last one
    assert figure.value == pytest.approx(expected, rel=1e-4) and figure.checkpoint == "kimg000000.020.ckpt"
    assert figure.protocol["sha256"] == "579344248a93" and figure.protocol["resizer"] == "bilinear 32"
    assert figure.protocol["num_images"] == 6 and figure.protocol["num_references"] == 4


def test_training_goes_on_as_without_it(objective, data, make_trainer):
    make_trainer([], max_steps=4).fit(objective, data)
    again = type(objective)()
    make_trainer([evaluation(times=4)], max_steps=4).fit(again, data)
    assert again.training and all(map(torch.equal, objective.state_dict().values(), again.state_dict().values()))


def test_any_metric_of_a_backbone(objective, data, make_trainer):
    data.heldout = data.train  # 6 images
    chosen = ["fd", "kd", "precision", "recall", "density", "coverage"]
    trainer = make_trainer([evaluation(times=1, metrics=chosen)], max_steps=1)
    trainer.fit(objective, data)
    assert {f"val/{name}_means" for name in chosen} <= trainer.callback_metrics.keys()


@pytest.mark.parametrize("metrics", [["fd"], ["fd", "kd"]])
def test_the_reference_is_kept_for_the_same_pixels_only(objective, data, make_trainer, metrics):
    def value(backbone=None, **options):
        callback = evaluation(backbone, times=1, metrics=metrics, **options)
        trainer = make_trainer([callback], max_steps=1)
        trainer.fit(type(objective)(), data)
        return float(trainer.callback_metrics["val/fd_means"]), callback.backbone.measured

    first, measured = value()
    assert measured == [4, 6]
    assert value() == (first, [6])
    assert value(Means(shift=8))[1] == [4, 6]
    assert value(num_references=3)[1] == [3, 6]
    data.heldout.images = data.heldout.images.copy()
    data.heldout.images[3, 0, 0, 0] ^= 128
    assert value()[1] == [4, 6]
    for file in Path(data.cache_dir).rglob("*.npy"):
        file.write_bytes(b"torn")
    assert value()[1] == [4, 6]
    assert len(list(Path(data.cache_dir).rglob("*"))) == 5  # the folder, four references, nothing temporary


def test_a_cache_that_cannot_be_written_costs_time_only(objective, data, make_trainer, capsys):
    Path(data.cache_dir).write_text("not a folder")
    trainer = make_trainer([evaluation(times=1)], max_steps=1)
    trainer.fit(objective, data)
    assert "val/fd_means" in trainer.callback_metrics
    assert "the features of the references are not kept" in capsys.readouterr().err


def test_off_without_held_out_images(objective, data, make_trainer, capsys):
    data.heldout = SimpleNamespace(images=np.zeros((0, 8, 8, 3), np.uint8), captions=[])
    trainer = make_trainer([evaluation()], max_steps=2)
    trainer.fit(objective, data)
    assert "val/fd_means" not in trainer.callback_metrics
    assert "val/* is off" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [{"num_images": 1}, {"times": -1}, {"num_references": 0}])
def test_wrong_options(wrong):
    with pytest.raises(UserError, match=r"callbacks\.evaluation"):
        evaluation(**wrong)


def test_a_judge_that_taught_is_refused_before_the_first_step(objective, data, make_trainer):
    own = {"_target_": "trainer.backbones.effnet_lite.load", "variant": 0}
    judge = {"backbone": {"_target_": "trainer.backbones.effnet_lite.load", "resolution": 64}}
    objective.config = {"objective": {"discriminator": {"backbone": own}}, "callbacks": {"evaluation": judge}}
    trainer = make_trainer([evaluation()], max_steps=2)
    with pytest.raises(UserError, match=r"effnet_lite variant=0 taught .*callbacks\.evaluation\.backbone=effnet_lite2"):
        trainer.fit(objective, data)
    assert trainer.global_step == 0
    judge["backbone"]["variant"] = 2
    make_trainer([evaluation()], max_steps=2).fit(objective, data)


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
