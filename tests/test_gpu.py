"""Runs from the command line on a machine with a GPU."""

import subprocess
import sys

import pytest
import torch

from tests.runs.test_resume import SMALL
from trainer.runs import checkpoint

pytestmark = pytest.mark.gpu
SHORT = (*SMALL, "kimg=0.16", "callbacks.samples=null")


def python(folder, *overrides):
    command = [sys.executable, "-m", "trainer", *overrides]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("strategy", ["auto", "ddp", "fsdp", "zero1", "zero2", "zero3"])
def test_a_run_on_a_gpu_is_resumed(tmp_path, strategy, precision):
    run = tmp_path / "run"
    options = (f"strategy={strategy}", f"trainer.precision={precision}", "data.num_workers=1")
    first = python(tmp_path, *SHORT, *options, f"run_dir={run}", "gpus_per_node=1")
    assert first.returncode == 0, first.stderr
    assert "cuda" in first.stdout.lower() + first.stderr.lower()
    second = python(tmp_path, f"resume={run}", "kimg=0.32")
    assert second.returncode == 0, second.stderr
    saved = checkpoint.read(checkpoint.newest(run))
    assert saved["images_seen"] == 320
    assert all(torch.as_tensor(weight).isfinite().all() for weight in saved["state_dict"].values())


def test_no_gpus_mean_the_cpu(tmp_path):
    done = python(tmp_path, *SHORT, f"run_dir={tmp_path / 'run'}", "gpus_per_node=0")
    assert done.returncode == 0, done.stderr


def test_gpus_that_are_not_there(tmp_path):
    done = python(tmp_path, *SHORT, f"run_dir={tmp_path / 'run'}", "gpus_per_node=99")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "gpus_per_node=99" in done.stderr
