"""No step of any objective makes the host wait for its device: shown on a device without values, GPU or not."""

import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from conftest_objectives import RESOLUTION, make_gan, paired_batch, random_batch
from fake_gpu import FAKE, waits
from torch.utils.data import DataLoader, IterableDataset

from trainer.callbacks.ema import EMA
from trainer.callbacks.log import Log
from trainer.callbacks.posthoc import PostHocEMA
from trainer.config import earlier
from trainer.config.entry import Training, entry

sys.path.insert(0, str(Path(__file__).parents[1] / "strategies"))
from worker import OBJECTIVES

EXPERIMENTS = sorted(file.stem for file in (Path(__file__).parents[2] / "conf" / "experiment").glob("*.yaml"))
PAIRED = ("cyclegan", "deformable", "pix2pix", "pix2pixhd", "style_transfer")
OF_RUNS = {"dalle", "maskgit", "gat_latents", "distill", "distill_data", "distill_text", "reward", "reward_tokens"}


class Batches(IterableDataset):
    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


def batches(name):
    drawn = paired_batch if name.startswith(("pix2pix", "cyclegan")) else random_batch
    resolution = 32 if name in ("attngan", "stages") else RESOLUTION
    return DataLoader(Batches([drawn(8, 8 * i, resolution) for i in range(3)]), batch_size=None)


SLOW = (pytest.mark.slow, pytest.mark.sampled(8))
QUICK = ("hinge", "rpgan", "cvae", "vq", "worded")
FAMILIES = [name for name in OBJECTIVES if name not in ("spare", "uneven")]  # these look themselves


@pytest.mark.parametrize("name", [each if each in QUICK else pytest.param(each, marks=SLOW) for each in FAMILIES])
def test_no_step_of_a_family_waits(name):
    """The third step, in which lazy penalties are due; averages and sums of losses are kept."""
    callbacks = [EMA(halflife_kimg=0.05), PostHocEMA(2), Log(1000)]
    assert waits(OBJECTIVES[name](seed=0), batches(name), callbacks) == []


@pytest.mark.parametrize("name", ["rpgan", "cvae+split"])
def test_no_step_of_fp16_waits(name):
    assert waits(OBJECTIVES[name](seed=0), batches(name), [Log(1000)], half=True) == []


@pytest.mark.slow
@pytest.mark.sampled(12)
@pytest.mark.parametrize("experiment", sorted({*EXPERIMENTS} - OF_RUNS))
def test_no_step_of_an_experiment_waits(experiment, command):
    found = []

    def task(cfg):
        from trainer.benchmark.fit import build

        for key in ("penalty_interval", "path_length_interval"):
            if key in cfg.objective:
                cfg.objective[key] = 2
        for optimizer in cfg.objective.optimizer.values():
            optimizer.fused = False  # of which the device has no kernel
        objective, data, _ = build(cfg)
        found.append(waits(objective, data, [EMA(halflife_kimg=0.05), Log(1000)]))

    pairs = ["data.source.target=openmoji"] if experiment in PAIRED else []  # the other designs do not come by pip
    arguments = [f"experiment={experiment}", "data.batch_size=8", *pairs]
    done = command(*arguments, main=lambda: entry(task, "config", Training, earlier.register_earlier_runs))
    assert (done.code, found) == (0, [[]]), done.err[-2000:]


class Careless(pl.Callback):
    def __init__(self, look):
        self.look = look

    def on_train_batch_end(self, trainer, objective, outputs, batch, index):
        if index > 1:
            self.look(batch.image)


@pytest.mark.parametrize(
    ("look", "name"),
    [
        (lambda image: image.sum().item(), "_local_scalar_dense"),
        (lambda image: 1 if image.sum() > 0 else 0, "_local_scalar_dense"),
        (lambda image: image[image > 0], "index"),
        (lambda image: image.mean(dim=(1, 2, 3)).nonzero(), "nonzero"),
        (lambda image: image.cpu(), "_to_copy"),
    ],
)
def test_what_reads_a_value_is_an_error(look, name):
    with pytest.raises(AssertionError, match=rf"^aten\.{name}\.\w+ waits for the device"):
        waits(make_gan(), batches("gan"), [Careless(look)])


@pytest.mark.parametrize(
    ("copy", "name"),
    [
        (lambda image: image + torch.ones(3, 1, 1).to(FAKE), "aten._to_copy.default"),
        (lambda image: image * torch.tensor([0.5], device=FAKE), "tensor"),
        (lambda image: image * image.new_tensor([0.5]), "new_tensor"),
        (lambda image: image[:, [0, 2]], "a list as an index"),
    ],
)
def test_what_is_copied_to_the_device_is_told(copy, name):
    assert {*waits(make_gan(), batches("gan"), [Careless(copy)])} == {name}
