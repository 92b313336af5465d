"""A run that is killed at any moment and resumed ends as if nothing had happened, to the last bit."""

import csv
import io
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trainer.runs import checkpoint

REPOSITORY = Path(__file__).parents[2]
STEPS = 40
SMALL = [
    *("experiment=cgan_shapes", "data.source.num_images=200", "data.resolution=16", "data.batch_size=8"),
    *("text=scratch", "text.width=16", "text.network.num_layers=1", "text.encoder.vocabulary=256"),
    *(
        f"objective.{name}.{key}=8"
        for name in ("generator", "discriminator")
        for key in ("base_channels", "max_channels")
    ),
    *("objective.generator.style_channels=16", "objective.penalty_interval=4", f"kimg={STEPS * 8 / 1000}"),
    *("callbacks.checkpoint.times=20", "callbacks.log.every_steps=5", "callbacks.samples.times=2"),
    *("callbacks.samples.num_images=4", "callbacks.evaluation=null", "logger.wandb=null"),
]


def start(folder, *overrides):
    environment = os.environ | {
        "PYTHONPATH": str(REPOSITORY),
        "TRAINER_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    log = open(folder / "output.txt", "a")  # noqa: SIM115
    command = [sys.executable, "-m", "trainer", *overrides]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)


def finish(folder, *overrides):
    process = start(folder, *overrides)
    assert process.wait(timeout=300) == 0, (folder / "output.txt").read_text()


def kill_after(folder, run, step, delay, *overrides):
    """kill -9 `delay` seconds after the checkpoint of `step` is there."""
    process = start(folder, *overrides)
    deadline = time.monotonic() + 300
    while not any(int(path.stem[4:].replace(".", "")) >= step * 8 for path in run.glob("checkpoints/kimg*.ckpt")):
        assert process.poll() is None, (folder / "output.txt").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(delay)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it was killed"


def final(run):
    saved = checkpoint.read(run / "checkpoints" / f"kimg{STEPS * 8 / 1000:010.3f}.ckpt")
    keys = ("state_dict", "ema", "optimizer_states", "rng", "images_seen", "global_step")
    return {key: plain(saved[key]) for key in keys}


def plain(node):
    """Of what the ranks wrote in parts, the whole."""
    if isinstance(node, Mapping):
        return {key: plain(value) for key, value in node.items()}
    return [plain(each) for each in node] if isinstance(node, list) else node


def same(a, b, path=""):
    """Bit for bit, with the place where it is not."""
    assert type(a) is type(b), path
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            same(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        for number, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{path}/{number}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    else:
        assert a == b, path


def logged_steps(run):
    with open(run / "metrics.csv", newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("resume")


@pytest.fixture(scope="module")
def uninterrupted(folder):
    finish(folder, *SMALL, "run_dir=uninterrupted")
    return final(folder / "uninterrupted")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_killed_and_resumed_run_ends_with_the_same_bits(folder, uninterrupted, num_workers):
    run = folder / f"killed{num_workers}"
    draw = random.Random(num_workers)
    overrides = (*SMALL, f"run_dir={run}", f"data.num_workers={num_workers}")
    kill_after(folder, run, draw.randrange(4, 24), draw.uniform(0, 0.1), *overrides)
    finish(folder, f"resume={run}")
    same(final(run), uninterrupted)
    assert logged_steps(run) == logged_steps(folder / "uninterrupted")


@pytest.mark.slow
def test_killed_with_pictures_that_stay_in_their_tars(tmp_path):
    """An index in place of a decoded cache, blocks of pictures, and workers that decode, crop and are killed, too."""
    pack(tmp_path / "tars")
    own = [each for each in SMALL if "num_images=200" not in each]
    own += ["data=webdataset", f"data.source.path={tmp_path / 'tars'}", "data.decoded=false", "data.block_size=3"]
    own += ["data.augment.random_crop=0.7", "data.augment.flip=0.5", "data.num_workers=2"]
    finish(tmp_path, *own, f"run_dir={tmp_path / 'whole'}")
    run, draw = tmp_path / "killed", random.Random(1)
    for _ in range(2):
        kill_after(tmp_path, run, draw.randrange(4, 24), draw.uniform(0, 0.1), *own, f"run_dir={run}")
    finish(tmp_path, f"resume={run}", "data.num_workers=0")
    same(final(run), final(tmp_path / "whole"))
    assert logged_steps(run) == logged_steps(tmp_path / "whole")


def pack(folder):
    """Tars of 20 pictures each."""
    folder.mkdir()
    for number in range(3):
        with tarfile.open(folder / f"{number}.tar", "w") as tar:
            for each in range(20 * number, 20 * number + 20):
                picture = io.BytesIO()
                values = np.random.default_rng(each).integers(0, 256, (24, 20 + each % 9, 3), np.uint8)
                Image.fromarray(values).save(picture, "JPEG")
                for name, content in (("jpg", picture.getvalue()), ("txt", f"thing {each}".encode())):
                    member = tarfile.TarInfo(f"{each:03}.{name}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


@pytest.mark.slow
@pytest.mark.sampled(3)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "zero1", "zero2", "zero3"])
def test_killed_under_each_strategy(tmp_path, strategy):
    """Two ranks, checkpoints written as it trains, and where a strategy splits the weights in parts, too."""
    parts = strategy in ("fsdp", "zero3")
    two = (*SMALL, f"strategy={strategy}", f"callbacks.checkpoint.sharded={parts}")
    two += ("gpus_per_node=0", "trainer.devices=2", "callbacks.checkpoint.asynchronous=true")
    finish(tmp_path, *two, f"run_dir={tmp_path / 'whole'}")
    run = tmp_path / "killed"
    draw = random.Random(strategy)
    kill_after(tmp_path, run, draw.randrange(4, 24), draw.uniform(0, 0.1), *two, f"run_dir={run}")
    finish(tmp_path, f"resume={run}")
    assert all(path.is_dir() == parts for path in run.glob("checkpoints/*.ckpt"))
    same(final(run), final(tmp_path / "whole"))
    assert logged_steps(run) == logged_steps(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [("ddp", "fsdp"), ("fsdp", "zero2"), ("zero3", "ddp"), ("zero1", "single")])
def test_a_run_goes_on_under_another_strategy(tmp_path, first, then):
    """By the command line that a user types; where a strategy splits the weights, from a checkpoint in parts."""
    parts = first in ("fsdp", "zero3")
    two = (*SMALL, f"strategy={first}", "gpus_per_node=0", "trainer.devices=2", f"callbacks.checkpoint.sharded={parts}")
    finish(tmp_path, *two, "run_dir=run", "kimg=0.08")
    ranks = ("gpus_per_node=0", f"trainer.devices={1 if then == 'single' else 2}")
    finish(tmp_path, "resume=run", f"strategy={then}", *ranks, "kimg=0.16", "callbacks.checkpoint.sharded=false")
    newest = checkpoint.newest(tmp_path / "run")
    saved = checkpoint.read(newest)
    assert (saved["images_seen"], newest.is_file()) == (160, True)
    assert saved["config"]["strategy"]["_target_"].rsplit(".", 1)[1].lower().startswith(then.rstrip("0123456789")[:4])
